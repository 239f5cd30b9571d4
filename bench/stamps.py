"""When each iteration of a run ended: the whole of it, with logging and everything else between two."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl


class IterationStamps(pl.Callback):
    """Write wall and CPU seconds from the end of one iteration to the end of the next.

    Args:
        path: JSON file, written at the end of the run.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []
        self._last = (0.0, 0.0)

    def on_train_start(self, *_: Any) -> None:
        """The clock starts after everything is loaded."""
        self._last = _now()

    def on_train_batch_end(self, *_: Any) -> None:
        """One iteration is over, its metrics are written."""
        now = _now()
        self.rows.append({"wall": now[0] - self._last[0], "cpu": now[1] - self._last[1]})
        self._last = now

    def on_train_end(self, *_: Any) -> None:
        """Largest memory of the process so far, in GiB, beside the stamps."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.path.write_text(json.dumps({"peak_gib": peak, "rows": self.rows}), encoding="utf-8")


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
