"""Names of a run's logs, and the reader of files with one JSON object on each line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
# The point of the curve of held-out accuracy, when an iteration has one.
ACCURACY = "eval/pass@1"
PROBE_FILE = "probe.jsonl"
# Why a run ended whose numbers were no longer finite.
DIVERGED_FILE = "diverged.txt"


def has_rows(metrics_path: Path) -> bool:
    """Whether a whole line was logged; a run that crashed at once may have left half of one."""
    if not metrics_path.is_file():
        return False
    with metrics_path.open("rb") as file:
        return file.readline().endswith(b"\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a last line that a crash cut short is left out.

    Raises:
        ValueError: naming a line that is not a JSON object with an iteration.
    """
    return read_lines(path, lambda row: int(row["iteration"]), "a record of an iteration")


def read_lines(path: Path, check: Callable[[Any], object], what: str) -> list[dict[str, Any]]:
    """The objects of a file with one on each line; a last line that a crash cut short is left out.

    Args:
        path: the file.
        check: reads of an object what it must have, and raises as Python does when it has not.
        what: an object is, for the error.

    Raises:
        ValueError: naming a line that is no such object.
    """
    rows = []
    # Bytes, because a crash may cut a character in two, and a response may hold other ends of lines.
    *lines, rest = path.read_bytes().split(b"\n")
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        try:
            row = json.loads(line)
            check(row)
        except (ValueError, KeyError, TypeError) as error:
            if number > len(lines):
                break
            raise ValueError(f"{path}, line {number}: not {what}") from error
        rows.append(row)
    return rows
