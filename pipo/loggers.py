"""Metrics as files: one JSON object per iteration, and the same as CSV.

Lightning's ``CSVLogger`` deletes what it finds when a run resumes, and writes in batches; here every row is
in the file before the next iteration begins, and a resumed run goes on where its checkpoint was.
"""

from __future__ import annotations

import csv
import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from pipo.run_log import METRICS_FILE, read_metrics


class MetricsFileLogger(Logger):
    """Writes ``metrics.jsonl`` and ``metrics.csv``; a row's ``iteration`` counts from 0.

    Args:
        folder: the run folder.
        start: first iteration that this run will log; rows from there on are left over from work that was
            done after the checkpoint and lost, and are removed.
    """

    def __init__(self, *, folder: str, start: int) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.jsonl, self.csv = self.folder / METRICS_FILE, self.folder / "metrics.csv"
        earlier = read_metrics(self.jsonl) if self.jsonl.exists() else []
        self._rows = [row for row in earlier if row["iteration"] < start]
        self._columns: list[str] = []
        self._rewrite()

    @property
    def name(self) -> str:
        """Lightning's name for the kind of logger."""
        return "files"

    @property
    def version(self) -> str:
        """The run folder's name."""
        return self.folder.name

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The composed configuration is saved as ``config.yaml`` beside the metrics."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add one row; it is on its way to the disk when this returns."""
        if step is None:
            raise ValueError("metrics must be logged with their iteration")
        row = {"iteration": step, **{name: float(value) for name, value in metrics.items()}}
        self._rows.append(row)
        with self.jsonl.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if set(row) <= set(self._columns):
            with self.csv.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(row)
        else:
            self._write_csv()

    def _rewrite(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self._rows)
        _replace(self.jsonl, lines)
        self._write_csv()

    def _write_csv(self) -> None:
        """Columns appear during a run (the first evaluation, the first comparison): write all rows again."""
        names = {name for row in self._rows for name in row} - {"iteration"}
        self._columns = ["iteration", *sorted(names)]
        temporary = self.csv.with_suffix(".csv.tmp")
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(temporary, self.csv)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
