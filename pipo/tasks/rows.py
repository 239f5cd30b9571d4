"""Rows of a data set, from a local file or from the Hugging Face hub, with errors that name the place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipo.tasks.base import Split, TaskError


@dataclass(frozen=True)
class Row:
    """One row of a data set.

    Attributes:
        place: where it stands, for messages (``data/train.jsonl, line 3``).
        fields: its columns.
    """

    place: str
    fields: Mapping[str, Any]

    def text(self, field: str) -> str:
        """A field that must hold text.

        Raises:
            TaskError: the field is missing, not a string, or blank.
        """
        if field not in self.fields:
            raise TaskError(f"{self.place}: no field {field!r}; there are {sorted(self.fields)}")
        value = self.fields[field]
        if not isinstance(value, str) or not value.strip():
            raise TaskError(f"{self.place}: field {field!r} must be a text that is not blank, got {value!r}")
        return value


@dataclass(frozen=True, kw_only=True)
class LocalFiles:
    """Local files in place of a hub: JSON Lines, a JSON list, or Parquet.

    Attributes:
        path: the training rows (``task.path``).
        test_path: the held-out rows (``task.test_path``).
    """

    path: str | None
    test_path: str | None

    def of(self, split: Split) -> Path | None:
        """The file of a split; None when neither file is given, so that the hub is meant.

        Raises:
            TaskError: only the other split's file is given, or the file does not exist.
        """
        if self.path is None and self.test_path is None:
            return None
        key, value = ("task.path", self.path) if split == "train" else ("task.test_path", self.test_path)
        if value is None:
            raise TaskError(f"{key} is needed too: the {split} rows must come from a local file as well")
        file = Path(value).expanduser()
        if not file.is_file():
            raise TaskError(f"{key}={value}: no such file")
        return file


def read_rows(split: Split, *, files: LocalFiles, hub_id: str, hub_config: str, revision: str) -> list[Row]:
    """All rows of a split, in the order of the source.

    Args:
        split: which part.
        files: local files; the hub when there are none.
        hub_id: name of the data set on the hub.
        hub_config: its configuration there.
        revision: branch, tag or commit there.

    Raises:
        TaskError: nothing usable: no such file, no rows, a broken row, or no access to the hub.
    """
    file = files.of(split)
    if file is None:
        source, rows = f"{hub_id} ({split})", _from_hub(split, hub_id, hub_config, revision)
    else:
        source, rows = str(file), _from_file(file)
    if not rows:
        raise TaskError(f"{source}: no rows")
    return rows


def _from_file(file: Path) -> list[Row]:
    readers = {".jsonl": _json_lines, ".json": _json_list, ".parquet": _parquet}
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
            yield f"{file}, line {number}", _json(line.decode(), file, number)


def _json_list(file: Path) -> Iterator[tuple[str, Any]]:
    rows = _json(file.read_text(encoding="utf-8"), file, 1)
    if not isinstance(rows, list):
        raise TaskError(f"{file}: must hold a JSON list of rows")
    for number, fields in enumerate(rows, start=1):
        yield f"{file}, row {number}", fields


def _json(text: str, file: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise TaskError(f"{file}, line {line}: malformed JSON ({error.msg}, column {error.colno})") from error


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


def _from_hub(split: Split, hub_id: str, hub_config: str, revision: str) -> list[Row]:
    from datasets import load_dataset

    try:
        table = load_dataset(hub_id, hub_config, split=split, revision=revision)
    except Exception as error:  # network, hub and cache have many error types and one remedy
        reason = str(error).strip().split("\n")[0][:200]
        raise TaskError(
            f"cannot load {hub_id}@{revision} from the Hugging Face hub ({type(error).__name__}: {reason}); "
            "without access to it, name local files in task.path and task.test_path"
        ) from error
    return [Row(f"{hub_id} ({split}), row {i}", fields) for i, fields in enumerate(table, start=1)]  # pyright: ignore[reportArgumentType]
