"""Checkpoints counted in iterations.

Lightning's ``ModelCheckpoint`` counts optimiser steps under manual optimisation, and PIPO makes their
number per iteration irregular; it would save at arbitrary iterations or never.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from pipo.modules.distributed import world

_NAME = re.compile(r"iteration_(\d+)\.ckpt")


class IterationCheckpoint(Checkpoint):
    """Saves every so many iterations and at the end, and keeps the newest.

    Args:
        folder: where the files go, one ``iteration_<finished iterations>.ckpt`` each.
        every: iterations between two checkpoints.
        keep: how many of the newest stay.
    """

    def __init__(self, *, folder: str, every: int, keep: int) -> None:
        super().__init__()
        if every < 1 or keep < 1:
            raise ValueError(f"checkpoint.every and checkpoint.keep must be >= 1, got {every} and {keep}")
        self.folder, self.every, self.keep = Path(folder), every, keep

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when due, or when the run is about to stop here."""
        done = batch_idx + 1
        if done % self.every == 0 or done == trainer.num_training_batches or trainer.should_stop:
            trainer.save_checkpoint(self.folder / f"iteration_{done:06d}.ckpt")
            if world()[0] == 0:
                for old in finished_checkpoints(self.folder)[: -self.keep]:
                    old.unlink()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A finished run that gets a larger budget has not seen its last batch after all."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False


def finished_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted((p for p in folder.glob("iteration_*.ckpt") if _NAME.fullmatch(p.name)), key=iterations_of)


def iterations_of(checkpoint: Path) -> int:
    """How many iterations were finished when it was written."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint}: not a checkpoint's name")
    return int(match.group(1))
