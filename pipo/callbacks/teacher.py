"""The self-teacher as a moving average of the policy."""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl
import torch

from pipo.modules.policy import Policy
from pipo.modules.policy_module import PolicyModule


class TeacherAverage(pl.Callback):
    """After each iteration, teacher = (1 - weight) * teacher + weight * policy.

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
        """Move the average."""
        assert isinstance(pl_module, PolicyModule)
        policy = pl_module.policy.parameters()
        for mine, new in zip(_teacher(pl_module).parameters(), policy, strict=True):
            mine.lerp_(new.to(mine.dtype), self.weight)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The average is not the policy of any iteration, so it cannot be made again."""
        checkpoint["teacher"] = {k: v.cpu() for k, v in _teacher(pl_module).state_dict().items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the average over."""
        _teacher(pl_module).load_state_dict(checkpoint["teacher"])


def _teacher(module: pl.LightningModule) -> Policy:
    return cast(Policy, module.__dict__["teacher"])
