"""GRPO: advantages relative to the group of each prompt, ratio and clipping per token."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipo.functional.advantages import group_relative_advantages
from pipo.modules.objectives.group import GroupObjective


class GRPO(GroupObjective):
    """Group relative policy optimisation (arXiv 2402.03300).

    DAPO is this objective with other numbers; its dynamic sampling and over-long penalty act before it, in
    the collector.

    Args:
        advantage_eps: added to the group's sample standard deviation.
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    authors_minimum = True

    def __init__(self, *, advantage_eps: float, **clip_and_loss: Any) -> None:
        super().__init__(**clip_and_loss)
        if not 0 <= advantage_eps < float("inf"):
            raise ValueError(f"advantage_eps must be >= 0 and finite, got {advantage_eps}")
        self.advantage_eps = advantage_eps

    def advantages(self, rewards: Tensor, group_size: int) -> Tensor:
        """(r - mean) / (sample std + eps) of the group."""
        return group_relative_advantages(rewards, group_size, self.advantage_eps)
