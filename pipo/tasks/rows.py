"""Rows of a data set, from a local file or from the Hugging Face hub, with errors that name the place."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipo.tasks.base import Dropped, Example, TaskError

E = TypeVar("E", bound=Example)

_BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}


class UnusableRow(TaskError):
    """One row cannot become a problem. It is left out, counted and named; the others go on."""


@dataclass(frozen=True)
class Row:
    """One row of a data set.

    Attributes:
        place: where it stands, for messages (``data/train.jsonl, line 3``).
        fields: its columns.
    """

    place: str
    fields: Mapping[str, Any]

    def value(self, field: str) -> Any:
        """A field that must be there, of whatever type.

        Raises:
            UnusableRow: it is missing.
        """
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
    """Where the rows of one split come from.

    Attributes:
        path: a local file (JSON Lines, a JSON list, or Parquet) in place of the hub; None for the hub.
        hub_id: name of the data set on the Hugging Face hub.
        configs: its configurations there, read one after another; ``default`` where it has none.
        split: which split there.
        revision: branch, tag or commit there.
        data_files: files inside the data set's repository (patterns may stand for several), or whole
            addresses (``https://...``), read as they are: for a data set that is published as a loading
            script, which ``datasets`` no longer runs. Each ends in .parquet, .json or .jsonl. None otherwise.
    """

    path: str | None
    hub_id: str
    configs: tuple[str, ...]
    split: str
    revision: str
    data_files: tuple[str, ...] | None = None

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
        rows: list[Row] = []
        for config in self.configs:
            try:
                table = self._table(config)
            except Exception as error:  # network, hub and cache have many error types and one remedy
                reason = str(error).strip().split("\n")[0][:200]
                elsewhere = self.data_files is not None and "://" in self.data_files[0]
                where = self.data_files[0] if elsewhere and self.data_files else "the Hugging Face hub"
                raise TaskError(
                    f"cannot load {self.hub_id}@{self.revision} ({config}, {self.split}) from {where} "
                    f"({type(error).__name__}: {reason}); without access to it, name a local file: "
                    "path or test_path of the task, or a folder in data_dir"
                ) from error
            place = f"{self.hub_id} ({config}, {self.split})"
            rows += [Row(f"{place}, row {i}", fields) for i, fields in enumerate(table, start=1)]
        return rows

    def _table(self, config: str) -> Iterable[Mapping[str, Any]]:
        from datasets import load_dataset

        if self.data_files is None:
            return load_dataset(self.hub_id, config, split=self.split, revision=self.revision)  # pyright: ignore[reportReturnType]
        # By the format's own reader: the name of the repository would lead to its loading script.
        home = f"hf://datasets/{self.hub_id}@{self.revision}/"
        files = [file if "://" in file else home + file for file in self.data_files]
        return load_dataset(_BUILDERS[Path(files[0]).suffix], data_files=files, split="train")  # pyright: ignore[reportReturnType]


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
            examples.append(make(number, row))
        except UnusableRow as problem:
            dropped.append(Dropped(place=row.place, reason=str(problem).removeprefix(f"{row.place}: ")))
    if not examples:
        first = dropped[0]
        raise TaskError(f"none of the {len(dropped)} rows can be used; {first.place}: {first.reason}")
    return tuple(examples), tuple(dropped)


def read_file(file: Path) -> list[Row]:
    """All rows of a local file.

    Raises:
        TaskError: no such file, or it is broken; the message names the line.
    """
    readers = {".jsonl": _json_lines, ".json": _json, ".parquet": _parquet}
    if not file.is_file():
        raise TaskError(f"{file}: no such file")
    if file.suffix not in readers:
        raise TaskError(f"{file}: the name must end in one of {sorted(readers)}")
    rows: list[Row] = []
    try:
        for place, fields in readers[file.suffix](file):
            if not isinstance(fields, Mapping):
                raise TaskError(f"{place}: a row must be a JSON object, got {str(fields)[:80]!r}")
            rows.append(Row(place, fields))
    except UnicodeDecodeError as error:
        raise TaskError(f"{file}: not UTF-8 text ({error})") from error
    return rows


def _json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    # By bytes: text mode would end lines at U+2028 too when split, which JSON allows in strings.
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if line.strip():
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield f"{file}, line {number}", _parsed(text, file, number)


def _json(file: Path) -> Iterator[tuple[str, Any]]:
    """A list of rows; some data sets name files of JSON Lines ``.json`` too."""
    text = file.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("{"):
        yield from _json_lines(file)
        return
    rows = _parsed(text, file, 1)
    if not isinstance(rows, list):
        raise TaskError(f"{file}: must hold a JSON list of rows, or one row a line")
    for number, fields in enumerate(rows, start=1):
        yield f"{file}, row {number}", fields


def _parsed(text: str, file: Path, first_line: int) -> Any:
    try:
        return json_value(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise TaskError(f"{file}, line {line}: malformed JSON ({error.msg}, column {error.colno})") from error


def json_value(text: str) -> Any:
    """What JSON says; an integer of more digits than Python converts is the text of its digits.

    Raises:
        JSONDecodeError: it is malformed.
    """
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | str:
    limit = sys.get_int_max_str_digits()
    return digits if 0 < limit < len(digits) else int(digits)


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    # Straight from the file: datasets would first copy it into its cache.
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise TaskError(f"{file}: not a Parquet file ({error})") from error
    for number, fields in enumerate(table, start=1):
        yield f"{file}, row {number}", fields
