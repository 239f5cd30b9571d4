"""One row of metrics per iteration, to every logger."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from pipo.modules.policy_module import PolicyModule


class IterationLog(pl.Callback):
    """Writes what the module and the callbacks before this one put into the iteration's row.

    ``LightningModule.log`` would repeat a value in every later row until it is logged again, in single
    precision; a feedback that is undefined in this iteration would show the one of an earlier iteration.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the row; checkpoints are saved after it, so no checkpoint is ahead of its metrics."""
        assert isinstance(pl_module, PolicyModule)
        for logger in trainer.loggers:
            logger.log_metrics(pl_module.row, step=batch_idx)
