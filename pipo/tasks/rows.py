"""Read rows of a data set, from a local file or the Hugging Face hub; errors name file and line."""

from __future__ import annotations

import codecs
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipo.errors import ConfigError, TaskError, reason
from pipo.hub import without_network_from_cache
from pipo.records.problems import Dropped, Example
from pipo.records.text import has_half_pair, whole_text

E = TypeVar("E", bound=Example)

_BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}


class UnusableRow(TaskError):
    """One row cannot become a problem. It is left out, counted and named; the others go on."""


@dataclass(frozen=True)
class Row:
    """One row of a data set."""

    place: str
    """Where the row stands, for messages (``data/train.jsonl, line 3``)."""
    fields: Mapping[str, Any]
    """Columns of the row; none when there is a problem."""
    problem: str | None = None
    """Why the row could not be read; None when it was."""

    def value(self, field: str) -> Any:
        """A field that must be there, of whatever type.

        Raises:
            UnusableRow: it is missing, or the row could not be read.
        """
        if self.problem is not None:
            raise UnusableRow(f"{self.place}: {self.problem}")
        if field not in self.fields:
            raise UnusableRow(f"{self.place}: no field {field!r}; there are {sorted(self.fields)}")
        return self.fields[field]

    def text(self, field: str) -> str:
        """A field that must hold text.

        Raises:
            UnusableRow: it is missing, not a string, or blank.
        """
        value = self.value(field)
        if not isinstance(value, str) or not value.strip():
            raise UnusableRow(
                f"{self.place}: field {field!r} must be a text that is not blank, got {value!r:.80}"
            )
        return value


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of the rows of one split."""

    path: str | None
    """A local file (JSON Lines, a JSON list, Parquet or CSV) in place of the hub; None for the hub."""
    hub_id: str
    """Name of the data set on the Hugging Face hub."""
    configs: tuple[str | None, ...]
    """Configurations of the data set on the hub, read one after another; ``default`` where it has none. None
    is the one that the hub takes by itself.
    """
    split: str
    """Split of the data set on the hub."""
    revision: str
    """Branch, tag or commit on the hub."""
    data_files: tuple[str, ...] | None = None
    """Files inside the data set's repository (patterns may stand for several), or whole addresses
    (``https://...``), read as they are: for a data set that is published as a loading script, which
    ``datasets`` no longer runs. Each ends in .parquet, .json or .jsonl. None otherwise.
    """

    def __post_init__(self) -> None:
        # Hydra hands over lists.
        object.__setattr__(self, "configs", tuple(self.configs))
        if self.data_files is not None:
            object.__setattr__(self, "data_files", tuple(self.data_files))
        if not self.configs:
            raise ValueError("configs must name at least one configuration of the data set")
        for file in self.data_files or ():
            if Path(file).suffix not in _BUILDERS:
                raise ValueError(f"data_files: {file!r} must end in one of {sorted(_BUILDERS)}")

    @property
    def name(self) -> str:
        """The local file, or the published name of the rows."""
        return self.path if self.path is not None else f"{self.hub_id} ({self.split})"

    def rows(self) -> list[Row]:
        """All rows, in the order of the source.

        Raises:
            TaskError: no such file, no rows, a broken file, or no access to the hub.
        """
        rows = self._from_hub() if self.path is None else read_file(Path(self.path).expanduser())
        if not rows:
            raise TaskError(f"{self.name}: no rows")
        return rows

    def _from_hub(self) -> list[Row]:
        without_network_from_cache()
        rows: list[Row] = []
        for config in self.configs:
            try:
                table = self._table(config)
            except Exception as error:  # network, hub and cache have many error types and one remedy
                reason = str(error).strip().split("\n")[0][:200]
                elsewhere = self.data_files is not None and "://" in self.data_files[0]
                where = self.data_files[0] if elsewhere and self.data_files else "the Hugging Face hub"
                raise TaskError(
                    f"cannot load {self.hub_id}@{self.revision} ({_of(config, self.split)}) from {where} "
                    f"({type(error).__name__}: {reason}); without access to it, name a local file: "
                    "path or test_path of the task, or a folder in data_dir"
                ) from error
            place = f"{self.hub_id} ({_of(config, self.split)})"
            rows += [Row(f"{place}, row {i}", fields) for i, fields in enumerate(table, start=1)]
        return rows

    def _table(self, config: str | None) -> Iterable[Mapping[str, Any]]:
        from datasets import load_dataset

        if self.data_files is None:
            return load_dataset(self.hub_id, config, split=self.split, revision=self.revision)  # pyright: ignore[reportReturnType]
        # By the format's own reader: the name of the repository would lead to its loading script.
        home = f"hf://datasets/{self.hub_id}@{self.revision}/"
        files = [file if "://" in file else home + file for file in self.data_files]
        return load_dataset(_BUILDERS[Path(files[0]).suffix], data_files=files, split="train")  # pyright: ignore[reportReturnType]


def _of(config: str | None, split: str) -> str:
    return split if config is None else f"{config}, {split}"


class RowSource(Protocol):
    """What a task reads: :class:`Source`, or anything else that has rows."""

    @property
    def name(self) -> str:
        """What the rows are called in messages."""
        ...

    def rows(self) -> list[Row]:
        """All rows, in a fixed order."""
        ...


def read_examples(
    source: RowSource, make: Callable[[int, Row], E]
) -> tuple[tuple[E, ...], tuple[Dropped, ...]]:
    """All problems that the rows of a source give.

    Args:
        source: where the rows are.
        make: the problem of a row, given its number from 0; raises :class:`UnusableRow` for one without.

    Returns:
        The problems in the order of the rows, and the rows that gave none.

    Raises:
        TaskError: the source cannot be read, or not one row is usable; the first reason is in the message.
    """
    examples: list[E] = []
    dropped: list[Dropped] = []
    for number, row in enumerate(source.rows()):
        try:
            if row.problem is not None:
                raise UnusableRow(row.problem)
            example = make(number, row)
            _check_text(example)
            examples.append(example)
        except UnusableRow as problem:
            why = whole_text(str(problem).removeprefix(f"{row.place}: "))
            dropped.append(Dropped(place=row.place, reason=why))
        except ConfigError:  # of the task, not of the row
            raise
        except (ValueError, RecursionError) as error:  # an integer too long to be written, nesting too deep
            dropped.append(Dropped(place=row.place, reason=f"it cannot be read ({reason(error)})"))
    if not examples:
        first = dropped[0]
        raise TaskError(f"none of the {len(dropped)} rows can be used; {first.place}: {first.reason}")
    return tuple(examples), tuple(dropped)


def _check_text(value: Any, name: str = "") -> None:
    """Every text of a problem, however deep, must be one that can be tokenised and written to a file.

    Raises:
        UnusableRow: one holds half of a surrogate pair, which JSON can say and UTF-8 cannot.
    """
    if isinstance(value, str):
        if has_half_pair(value):
            raise UnusableRow(f"{name} holds half of a surrogate pair, which is no character: {value!r:.80}")
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _check_text(key, name)
            _check_text(each, name)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            _check_text(each, name)
    elif is_dataclass(value):
        for field in fields(value):
            _check_text(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)


def read_file(file: Path) -> list[Row]:
    """All rows of a local file; one that cannot be read is among them, with its problem.

    Raises:
        TaskError: no such file, or it is broken as a whole; the message names the line.
    """
    if not file.is_file():
        raise TaskError(f"{file}: no such file")
    if file.suffix not in READERS:
        raise TaskError(f"{file}: the name must end in one of {sorted(READERS)}")
    return list(READERS[file.suffix](file))


def _row(place: str, content: Any) -> Row:
    if isinstance(content, Mapping):
        return Row(place, content)
    return Row(place, {}, f"a row must be a JSON object, got {content!r:.80}")


def _json_lines(file: Path) -> Iterator[Row]:
    # By bytes: text mode would end lines at U+2028 too when split, which JSON allows in strings.
    for number, line in enumerate(_content(file).split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            yield _row(place, json_value(line.decode()))
        except json.JSONDecodeError as error:
            yield Row(place, {}, f"malformed JSON ({error.msg}, column {error.colno})")
        except UnicodeDecodeError as error:
            yield Row(place, {}, f"not UTF-8 text ({error.reason} at byte {error.start})")
        except (ValueError, RecursionError) as error:
            yield Row(place, {}, f"cannot be read ({error})")


def _json(file: Path) -> Iterator[Row]:
    """A list of rows; some data sets name files of JSON Lines ``.json`` too."""
    content = _content(file)
    if content.lstrip().startswith(b"{"):
        yield from _json_lines(file)
        return
    try:
        rows = json_value(content.decode())
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}: malformed JSON ({error.msg}, column {error.colno})"
        raise TaskError(f"{file}, {where}") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{file}: cannot be read ({error})") from error
    if not isinstance(rows, list):
        raise TaskError(f"{file}: must hold a JSON list of rows, or one row a line")
    for number, row in enumerate(rows, start=1):
        yield _row(f"{file}, row {number}", row)


def json_value(text: str) -> Any:
    """What JSON says; an integer of more digits than Python converts is the text of its digits.

    Raises:
        JSONDecodeError: it is malformed.
    """
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | str:
    limit = sys.get_int_max_str_digits()
    return digits if 0 < limit < len(digits) else int(digits)


def _content(file: Path) -> bytes:
    """Without the mark that some editors put in front of UTF-8."""
    return file.read_bytes().removeprefix(codecs.BOM_UTF8)


def _parquet(file: Path) -> Iterator[Row]:
    # Straight from the file: datasets would first copy it into its cache.
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise TaskError(f"{file}: not a Parquet file ({error})") from error
    try:
        contents = enumerate(table.to_pylist(), start=1)
        yield from (Row(f"{file}, row {number}", content) for number, content in contents)
        return
    except UnicodeDecodeError:  # some row's; one by one, which is slow, they say whose
        pass
    for number in range(table.num_rows):
        place = f"{file}, row {number + 1}"
        try:
            yield Row(place, table.slice(number, 1).to_pylist()[0])
        except UnicodeDecodeError as error:
            yield Row(place, {}, f"not UTF-8 text ({error.reason})")


def _csv(file: Path) -> Iterator[Row]:
    """The first line names the columns; numbers are numbers, as ``datasets`` reads them."""
    import pyarrow
    from pyarrow import csv

    wrong: list[Row] = []

    def refused(row: csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} columns, and the first line names {row.expected_columns}"
        wrong.append(Row(f"{file}, row {(row.number or 2) - 1}", {}, reason))
        return "skip"

    try:
        table = csv.read_csv(
            file,
            # One thread, because with more it does not know which row is wrong.
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refused),
        )
    except (pyarrow.ArrowException, OSError) as error:
        raise TaskError(f"{file}: not a CSV file ({' '.join(str(error).split())})") from error
    left_out = {row.place for row in wrong}
    places = (place for n in itertools.count(1) if (place := f"{file}, row {n}") not in left_out)
    yield from (Row(place, content) for place, content in zip(places, table.to_pylist(), strict=False))
    yield from wrong


READERS = {".jsonl": _json_lines, ".json": _json, ".parquet": _parquet, ".csv": _csv}
"""Ending of a file's name -> what reads its rows."""
