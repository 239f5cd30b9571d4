"""Log one row of metrics per iteration, to every logger and to callbacks that monitor one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from pipo.errors import RunFailed
from pipo.modules.hooks import learner
from pipo.runs.metric_files import RowLogger
from pipo.runs.run_log import ACCURACY


class MonitoredMetrics(pl.Callback):
    """Shows the iteration's row to whoever watches a metric (``trainer.callback_metrics``).

    It stands after what adds to the row and before the callbacks of the user. ``LightningModule.log`` would
    repeat a value in every later row until it is logged again, in single precision; a feedback that is
    undefined in this iteration would show the one of an earlier iteration.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The newest value of each."""
        row = learner(pl_module).row
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in row.items()})


class IterationLog(pl.Callback):
    """Writes what the module and the callbacks before this one, the user's included, put into the row.

    What a callback logs by ``LightningModule.log`` is part of it.

    Args:
        watching: the user's own callbacks by their keys. A point of the curve is to them what a validation
            is elsewhere, so that Lightning's EarlyStopping and ModelCheckpoint act on it.
    """

    def __init__(self, watching: Mapping[str, pl.Callback]) -> None:
        super().__init__()
        self.watching = watching

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the row; checkpoints are saved after it, so no checkpoint is ahead of its metrics."""
        module = learner(pl_module)
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        module.row = {**logged, **module.row}
        for logger in trainer.loggers:
            if isinstance(logger, RowLogger):
                logger.log_row(module.row, batch_idx)
            else:
                logger.log_metrics(module.row, step=batch_idx)
        if ACCURACY in module.row:
            for key, callback in self.watching.items():
                self._check_monitor(key, callback, trainer)
                callback.on_validation_end(trainer, pl_module)

    def _check_monitor(self, key: str, callback: pl.Callback, trainer: pl.Trainer) -> None:
        """A metric that a callback watches has to be there.

        Raises:
            RunFailed: it is not.
        """
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise RunFailed(
                f"{key}.monitor={monitor}: there is no such metric; there are {known}", agreed=True
            )
