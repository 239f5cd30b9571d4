"""Bad-batch dump: the first batch whose optimiser step was skipped (not finite), written to disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from pipo.distributed.collectives import gather
from pipo.distributed.processes import is_first
from pipo.modules.hooks import Learner, RolloutCallback, SkippedStep, learner
from pipo.records.batches import PolicyBatch

log = logging.getLogger(__name__)


class SkippedStepLog(RolloutCallback):
    """Says that a step was skipped, and keeps the first batch that caused one.

    One is kept per run folder: a batch of long responses is large, and whatever makes the second one
    usually made the first.

    Args:
        folder: the run folder; the file is ``bad_batch_<iteration>.pt``, plain data of every process.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def on_step_skipped(
        self, trainer: pl.Trainer, module: Learner, batch: PolicyBatch, rows: Tensor, step: SkippedStep
    ) -> None:
        """Collect the mini-batch from every process and write it."""
        parts = gather({"batch": batch.to_plain(), "rows": rows})
        if not is_first():
            return
        path = self.folder / f"bad_batch_{step.iteration:06d}.pt"
        kept = sorted(self.folder.glob("bad_batch_*.pt"))
        if not kept:
            described = {"iteration": step.iteration, "update": step.update}
            numbers = {"loss": step.loss, "grad_norm": step.grad_norm}
            kept = [path] if _written({**described, **numbers, "ranks": parts}, path) else []
        if not kept:
            where = "its batch could not be written"
        else:
            where = f"its batch is in {path}" if kept == [path] else f"the first such batch is in {kept[0]}"
        log.warning(
            "iteration %d: a step of the %s update was skipped, loss %g, gradient norm %g; %s",
            step.iteration,
            step.update,
            step.loss,
            step.grad_norm,
            where,
        )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """How many steps were skipped since the last that was made counts on after a resume."""
        module = learner(pl_module)
        checkpoint["skipped_in_a_row"] = module.skipped_in_a_row

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the count over."""
        module = learner(pl_module)
        module.skipped_in_a_row = checkpoint["skipped_in_a_row"]


def _written(content: dict[str, Any], path: Path) -> bool:
    """Write for the record; on a full disk the run goes on without it."""
    partial = path.with_suffix(".partial")
    try:
        torch.save(content, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as its own error
        log.warning("%s: cannot be written (%s)", path, str(error).splitlines()[0])
        partial.unlink(missing_ok=True)
        return False
    return True
