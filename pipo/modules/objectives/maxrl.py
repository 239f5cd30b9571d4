"""MaxRL: advantages in units of the group's success rate, which maximise the likelihood of success."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pipo.functional.advantages import likelihood_advantages
from pipo.modules.objectives.group import ComparingObjective
from pipo.records.rollouts import Rollouts


class MaxRL(ComparingObjective):
    """Maximum likelihood reinforcement learning (arXiv 2602.02710, algorithm 1), with the clipped surrogate.

    Args:
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    def compare(
        self, rewards: Tensor, rollouts: Rollouts, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """(r_i - mean) / p, where p is the group's mean verifier reward; 0 where it has no success."""
        return likelihood_advantages(rewards, rollouts.rewards, rollouts.group_size)
