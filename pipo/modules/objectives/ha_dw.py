"""HA-DW: GRPO whose advantages weigh by how hard a query is for what the policy has reached lately."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipo.functional.advantages import difficulty_weights
from pipo.modules.objectives.grpo import GRPO
from pipo.records.rollouts import Rollouts


class HADW(GRPO):
    """History-aware adaptive difficulty weighting (arXiv 2601.08521, equations 13 to 17).

    The anchor is that of appendix F (equation 134), the mean reward of the last batches, which the authors'
    code has, too. The paper's other one (equations 8 to 12) cannot move as long as past beliefs are equal,
    and the paper says neither what they begin with nor its two constants.

    Args:
        window: h, batches before the present one that the anchor is the mean of.
        scale: lambda, factor on all advantages.
        **group_options: see :class:`~pipo.modules.objectives.grpo.GRPO`.
    """

    authors_minimum = False

    def __init__(self, *, window: int, scale: float, **group_options: Any) -> None:
        super().__init__(**group_options)
        if window < 1:
            raise ValueError(f"window must be >= 1, got {window}")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.scale = scale
        self.history: deque[float] = deque(maxlen=window)

    def compare(
        self, rewards: Tensor, rollouts: Rollouts, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """GRPO's advantage times its weight; in the first iteration the batch is its own past."""
        sums = torch.tensor([rollouts.reward_sum, float(rollouts.reward_count)], dtype=torch.float64)
        total, count = sum_over_ranks(sums).tolist()
        mean = total / count
        anchor = sum(self.history) / len(self.history) if self.history else mean
        self.history.append(mean)
        advantages = self.advantages(rewards, rollouts.group_size)
        return advantages * difficulty_weights(
            advantages, rollouts.rewards, rollouts.group_size, anchor, self.scale
        )

    def state_dict(self) -> dict[str, Any]:
        """Mean rewards of the last batches."""
        return {"history": list(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self.history.clear()
        self.history.extend(state["history"])
