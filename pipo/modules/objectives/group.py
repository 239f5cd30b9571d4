"""Base of group-relative objectives (GRPO, GSPO, RLOO, ...): one advantage per response of a group."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from pipo.functional.advantages import group_attribution
from pipo.modules.objectives.base import Objective, policy_batch
from pipo.records.batches import Annotations, PolicyBatch
from pipo.records.rollouts import Rollouts


class ComparingObjective(Objective):
    """Responses are compared with others to the same prompt."""

    min_group_size = 2

    @abstractmethod
    def compare(
        self, rewards: Tensor, rollouts: Rollouts, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """[N], one advantage per response.

        Args:
            rewards: [N], those that are trained on, reward terms included.
            rollouts: the responses; their own rewards are the verifier's.
            sum_over_ranks: see :meth:`prepare`.
        """

    def attribute(self, advantages: Tensor, rollouts: Rollouts) -> Tensor:
        """[N], what each response earned or cost its group."""
        return group_attribution(advantages, rollouts.group_size)

    def prepare(
        self, rollouts: Rollouts, annotations: Annotations, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> PolicyBatch:
        """One advantage per response, the same on each of its sampled tokens."""
        advantages = self.compare(rollouts.rewards + rollouts.shaping, rollouts, sum_over_ranks)
        return policy_batch(
            rollouts,
            annotations,
            advantages=advantages,
            attribution=self.attribute(advantages, rollouts),
            kl_coef=self.kl_coef,
        )


class GroupObjective(ComparingObjective):
    """Rewards alone are compared."""

    @abstractmethod
    def advantages(self, rewards: Tensor, group_size: int) -> Tensor:
        """[N], one per response; exactly zero in a group whose rewards are all equal."""

    def compare(
        self, rewards: Tensor, rollouts: Rollouts, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The same, whatever the responses are."""
        return self.advantages(rewards, rollouts.group_size)
