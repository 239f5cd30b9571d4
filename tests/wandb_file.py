"""Read back what W&B wrote offline."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2


def records(path: Path) -> list[Any]:
    """All records of a run that has ended; W&B's own process may still be writing them."""
    while True:
        found = list(_written(path))
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.05)


def _written(path: Path) -> Iterator[Any]:
    """The records so far: after a header of 7 bytes of its own, the format of LevelDB's log."""
    content = path.read_bytes()
    position, parts = 7, b""
    while position + 7 <= len(content):
        room = 2**15 - position % 2**15
        if room < 7:  # the rest of a block, too short for the header of a record
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if position + 7 + length > len(content):
            return  # still being written
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(parts)
            yield record
            parts = b""


def run_files(folder: Path) -> list[Path]:
    """Of every start of the run in a run folder, in the order of the starts."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def item_values(items: Any) -> dict[str, Any]:
    """Of a row, a summary or a configuration."""
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def rows(path: Path) -> list[dict[str, Any]]:
    """What was logged, a row for each step."""
    return [item_values(each.history.item) for each in records(path) if each.HasField("history")]


def run_record(path: Path) -> Any:
    """The record that names the run."""
    return next(each.run for each in records(path) if each.HasField("run"))
