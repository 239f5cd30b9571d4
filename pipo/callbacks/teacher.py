"""Exponential moving average (EMA) of the policy as self-teacher, for self-distillation."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from pipo.modules.hooks import learner


class TeacherAverage(pl.Callback):
    """After each iteration, teacher = (1 - weight) * teacher + weight * policy.

    The average is a part of the module, so checkpoints hold it, in shards where weights are sharded.

    Args:
        weight: of the new weights, in (0, 1).
    """

    def __init__(self, *, weight: float) -> None:
        super().__init__()
        self.weight = weight

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average; shards of one and the same cut, so each process moves its own."""
        module = learner(pl_module)
        policy = [weight for weight in module.policy.parameters() if weight.requires_grad]
        for mine, new in zip(module.teacher.parameters(), policy, strict=True):
            mine.lerp_(new.to(mine.dtype), self.weight)
