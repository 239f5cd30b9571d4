"""Dr. GRPO: no division by the group's standard deviation nor by the response's length."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipo.functional.advantages import group_centred
from pipo.modules.objectives.group import GroupObjective


class DrGRPO(GroupObjective):
    """GRPO done right (arXiv 2503.20783): both normalisations that bias the gradient are left out.

    Args:
        max_response_tokens: the constant that token sums are divided by in place of each length.
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    def __init__(self, *, max_response_tokens: int, **clip_and_loss: Any) -> None:
        super().__init__(**clip_and_loss)
        if self.aggregation != "token-mean":
            raise ValueError("Dr. GRPO sums over tokens, so aggregation must be token-mean")
        if max_response_tokens < 1:
            raise ValueError(f"max_response_tokens must be >= 1, got {max_response_tokens}")
        self.max_response_tokens = max_response_tokens

    def advantages(self, rewards: Tensor, group_size: int) -> Tensor:
        """r_i minus the mean reward of its group."""
        return group_centred(rewards, group_size)

    def denominator(self, mask: Tensor) -> Tensor:
        """Responses times the constant length."""
        return mask.any(dim=1).sum().double() * self.max_response_tokens
