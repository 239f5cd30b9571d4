"""RLOO: leave-one-out baseline, the mean reward of the other responses in the group."""

from __future__ import annotations

from torch import Tensor

from pipo.functional.advantages import group_centred
from pipo.modules.objectives.group import GroupObjective


class RLOO(GroupObjective):
    """REINFORCE leave-one-out (arXiv 2402.14740), with the clipped surrogate for more than one step."""

    def advantages(self, rewards: Tensor, group_size: int) -> Tensor:
        """r_i minus the mean of the others, which is G / (G - 1) times r_i minus the mean of all."""
        return group_centred(rewards, group_size) * group_size / (group_size - 1)
