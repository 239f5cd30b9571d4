"""Read ``metrics.jsonl``: rows, the series of a metric, and its moving average."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

METRICS_FILE = "metrics.jsonl"
# The point of the curve of held-out accuracy, when an iteration has one.
ACCURACY = "eval/pass@1"
PROBE_FILE = "probe.jsonl"
# Why a run ended whose numbers were no longer finite.
DIVERGED_FILE = "diverged.txt"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The metrics of one run."""

    name: str
    """Label in the legend."""
    rows: dict[int, dict[str, float]]
    """Iteration -> metric -> value, rising."""

    def series(self, metric: str) -> tuple[Floats, Floats]:
        """Iterations that logged a finite value of this metric, and the values; empty when none did."""
        found = [(i, row[metric]) for i, row in self.rows.items() if metric in row]
        points = np.array(found, dtype=np.float64).reshape(-1, 2)
        points = points[np.isfinite(points[:, 1])]
        return points[:, 0], points[:, 1]

    def values(self, metric: str, missing: float = np.nan) -> Floats:
        """One value per iteration, ``missing`` where the metric was not logged."""
        return np.array([row.get(metric, missing) for row in self.rows.values()], dtype=np.float64)


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


def read_run(name: str, metrics_path: Path) -> Run:
    """Read a ``metrics.jsonl``. A resumed run logs some iterations twice; the later line counts.

    Raises:
        ValueError: when a line is not a JSON object with an iteration, or there are no lines.
    """
    rows: dict[int, dict[str, float]] = {}
    for row in read_metrics(metrics_path):
        values = dict(row)
        rows.setdefault(int(values.pop("iteration")), {}).update(values)
    if not rows:
        raise ValueError(f"{metrics_path}: no iterations were logged")
    return Run(name=name, rows=dict(sorted(rows.items())))


def smooth(values: Floats, window: int) -> Floats:
    """Centred moving average over an odd window, which is cut off at the ends of the run.

    What is nan is left out of the averages, and an average of nothing is nan.
    """
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    at = np.arange(len(values))
    first, last = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, len(values))
    found = counts[last] - counts[first]
    return np.where(found > 0, (sums[last] - sums[first]) / np.maximum(found, 1), np.nan)
