"""Lightning logger that writes ``metrics.jsonl``, one JSON object per iteration, and the same as CSV.

Lightning's ``CSVLogger`` deletes what it finds when a run resumes, and writes in batches; here every row is
in the file before the next iteration begins, and a resumed run goes on where its checkpoint was.
"""

from __future__ import annotations

import csv
import io
import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.loggers import Logger

from pipo.runs.files import replace_text, sync
from pipo.runs.run_log import METRICS_FILE, read_metrics


@runtime_checkable
class RowLogger(Protocol):
    """A logger with one row per iteration, whoever logs.

    Callbacks of Lightning's, such as ``LearningRateMonitor``, hand their metrics to every logger by
    themselves, before the iteration's row is there or after it.
    """

    def log_row(self, row: Mapping[str, float], iteration: int) -> None:
        """The iteration's row."""
        ...


class MetricsFileLogger(Logger):
    """Writes ``metrics.jsonl`` and ``metrics.csv``; a row's ``iteration`` counts from 0.

    Only the first process makes one. What others log waits for the row of its iteration, or joins it.

    Args:
        folder: the run folder.
        start: first iteration that this run will log; rows from there on are left over from work that was
            done after the checkpoint and lost, and are removed.
    """

    def __init__(self, *, folder: str, start: int) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.jsonl, self.csv = self.folder / METRICS_FILE, self.folder / "metrics.csv"
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._waiting: dict[int, dict[str, float]] = {}
        self._take_over(start)

    def _take_over(self, start: int) -> None:
        """Go on with the rows before ``start``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = read_metrics(self.jsonl) if self.jsonl.exists() else []
        self._rows = [row for row in earlier if row["iteration"] < start]
        replace_text(self.jsonl, "".join(json.dumps(row) + "\n" for row in self._rows))
        self._write_csv()

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

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """What a callback or ``LightningModule.log`` adds to the row of an iteration."""
        if step is None:
            raise ValueError("metrics must be logged with their iteration")
        known = self._rows[-1] if self._rows and self._rows[-1]["iteration"] == step else {}
        # Lightning adds the epoch, of which there is one.
        new = {name: value for name, value in metrics.items() if name not in known and name != "epoch"}
        if not known:
            self._waiting.setdefault(step, {}).update(new)
        elif new:
            self._rows.pop()
            replace_text(self.jsonl, "".join(json.dumps(row) + "\n" for row in self._rows))
            self._columns = []  # the table is written anew with the row
            self._add({**known, **new})

    def log_row(self, row: Mapping[str, float], iteration: int) -> None:
        """Add one row; it is on its way to the disk when this returns."""
        self._add({"iteration": iteration, **self._waiting.pop(iteration, {}), **row})

    def _add(self, metrics: Mapping[str, Any]) -> None:
        row = {name: value if name == "iteration" else float(value) for name, value in metrics.items()}
        self._rows.append(row)
        with self.jsonl.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if set(row) <= set(self._columns):
            with self.csv.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(row)
        else:
            self._write_csv()

    def save(self) -> None:
        """Called before a checkpoint is written: its rows outlive a loss of power, too."""
        sync(self.jsonl)

    def _write_csv(self) -> None:
        """Columns appear during a run (the first evaluation, the first comparison): write all rows again."""
        names = {name for row in self._rows for name in row} - {"iteration"}
        self._columns = ["iteration", *sorted(names)]
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self._columns, restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        replace_text(self.csv, table.getvalue())
