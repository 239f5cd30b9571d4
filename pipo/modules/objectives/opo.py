"""OPO: the baseline of least variance, the mean reward of the group weighted by length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pipo.functional.advantages import length_weighted_centred
from pipo.modules.objectives.group import ComparingObjective
from pipo.records.rollouts import Rollouts


class OPO(ComparingObjective):
    """On-policy RL with optimal reward baseline (arXiv 2505.23585).

    The paper makes one step on each batch, without a clip range or a penalty. With one mini-batch per
    iteration the base update is that step; the clip range is for what goes beyond it.

    Args:
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    def __init__(self, **clip_and_loss: Any) -> None:
        super().__init__(**clip_and_loss)
        if self.aggregation != "token-mean":
            raise ValueError("OPO's baseline is for sums over tokens, so aggregation must be token-mean")

    def compare(
        self, rewards: Tensor, rollouts: Rollouts, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """r_i minus the mean of the group weighted by the sampled tokens."""
        lengths = rollouts.completions.sampled_lengths
        return length_weighted_centred(rewards, lengths, rollouts.group_size)
