"""Tools of all readers of runs: JSON lines, numbers in rows, and the errors that name file and row."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipo.errors import ConfigError, reason

# Enough of a file to tell what it is.
_HEAD = 1 << 16

Rewards = dict[int, dict[str, list[float]]]
"""Iteration -> prompt -> rewards of its responses."""


def head(path: Path) -> bytes:
    """The beginning of a file."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason(error)})") from error


def text_of(path: Path) -> str:
    """A whole text file; bytes that are no UTF-8, as in a console log that was cut, are replaced."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason(error)})") from error


def first_object(path: Path) -> Mapping[str, Any]:
    """The JSON object on the first line; empty when there is none."""
    line = head(path).split(b"\n", 1)[0]
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number and object of every line; a last line that a crash cut short is left out.

    Raises:
        ConfigError: naming a line that is not a JSON object.
    """
    # Only \n ends a line: a response may hold other ends of lines.
    lines = text_of(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise ConfigError(f"{path}, line {number}: not JSON; mend or remove the line") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}: not a JSON object; one object per line is read")
        yield number, row


def number(value: Any, where: str) -> float:
    """A reward; null, an empty cell and nan are nan.

    Raises:
        ConfigError: when it is something else.
    """
    if value is None or value == "":
        return math.nan
    if not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise ConfigError(f"{where}: {value!r} is not a number")


def whole(value: Any, where: str) -> int:
    """An iteration's number.

    Raises:
        ConfigError: when it is not whole.
    """
    try:
        found = float(value)
        if not isinstance(value, bool) and found == int(found):
            return int(found)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ConfigError(f"{where}: {value!r} is not the number of an iteration")


def add(rewards: Rewards, step: int, prompt: str, value: float) -> None:
    """One more response."""
    rewards.setdefault(step, {}).setdefault(prompt, []).append(value)


def some(rows: Collection[object], path: Path, what: str) -> None:
    """Refuse an input without any iteration.

    Raises:
        ConfigError: naming what was looked for.
    """
    if not rows:
        raise ConfigError(f"{path}: no {what}; name another file, or the key or column with --reward")


def listed(names: Sequence[str]) -> str:
    """Names for an error, not too many."""
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
