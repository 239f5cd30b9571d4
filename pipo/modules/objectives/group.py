"""Base of group-relative objectives (GRPO, GSPO, RLOO, ...): one advantage per response of a group."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from pipo.functional.advantages import group_attribution
from pipo.modules.objectives.base import Objective, policy_batch
from pipo.records.batches import Annotations, PolicyBatch
from pipo.records.rollouts import Rollouts


class GroupObjective(Objective):
    """Responses are compared with others to the same prompt."""

    min_group_size = 2

    @abstractmethod
    def advantages(self, rewards: Tensor, group_size: int) -> Tensor:
        """[N], one per response; exactly zero in a group whose rewards are all equal."""

    def prepare(
        self, rollouts: Rollouts, annotations: Annotations, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> PolicyBatch:
        """One advantage per response, the same on each of its sampled tokens."""
        advantages = self.advantages(rollouts.rewards + rollouts.shaping, rollouts.group_size)
        return policy_batch(
            rollouts,
            annotations,
            advantages=advantages,
            attribution=group_attribution(advantages, rollouts.group_size),
            kl_coef=self.kl_coef,
        )
