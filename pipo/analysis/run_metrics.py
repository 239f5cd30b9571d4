"""The metrics of one run: its rows, the series of a metric, and a moving average."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipo.evaluation.statistics import Floats
from pipo.runs.run_log import read_metrics


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
