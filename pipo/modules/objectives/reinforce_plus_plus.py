"""REINFORCE++: advantages normalised over the whole batch, without a critic; alone or with a group's mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pipo.functional.advantages import (
    group_attribution,
    group_centred,
    moments,
    penalised_returns,
    whiten_batch,
)
from pipo.functional.divergence import kl_k1
from pipo.modules.objectives.base import Objective, policy_batch
from pipo.records.batches import Annotations, PolicyBatch
from pipo.records.rollouts import Rollouts


class ReinforcePlusPlus(Objective):
    """REINFORCE++ (arXiv 2501.03262, equations 1, 4 and 5); one response per prompt is enough.

    Args:
        kl_reward_coef: weight of the k1 penalty that is subtracted from each token's reward.
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    def __init__(self, *, kl_reward_coef: float, **clip_and_loss: Any) -> None:
        super().__init__(**clip_and_loss)
        if not 0 <= kl_reward_coef < float("inf"):
            raise ValueError(f"kl_reward_coef must be >= 0, got {kl_reward_coef}")
        self.kl_reward_coef = kl_reward_coef

    @property
    def needs_reference(self) -> bool:
        """The reference is needed for the KL penalty in the reward too."""
        return super().needs_reference or self.kl_reward_coef != 0

    def prepare(
        self, rollouts: Rollouts, annotations: Annotations, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> PolicyBatch:
        """What is still to come from each token on, whitened; the same serve as attribution, as with PPO."""
        old, mask = annotations.old_logprobs, rollouts.completions.sampled
        reference = old if annotations.ref_logprobs is None else annotations.ref_logprobs
        penalties = self.kl_reward_coef * kl_k1(old, reference)
        to_come = penalised_returns(rollouts.rewards + rollouts.shaping, penalties, mask)
        advantages = whiten_batch(to_come, mask, sum_over_ranks(moments(to_come, mask)))
        return policy_batch(
            rollouts, annotations, advantages=advantages, attribution=advantages, kl_coef=self.kl_coef
        )


class ReinforcePlusPlusBaseline(Objective):
    """REINFORCE++ with baseline (arXiv 2501.03262, equations 6 to 8): for groups of responses.

    The group's mean is the baseline, and the whole batch the unit. A group without differences is not exactly
    silent: it is moved by the mean over the batch's tokens, as every other.

    Args:
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    min_group_size = 2

    def prepare(
        self, rollouts: Rollouts, annotations: Annotations, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> PolicyBatch:
        """Centred inside the group, whitened over the batch's tokens; attribution is a share of the group."""
        mask = rollouts.completions.sampled
        centred = group_centred(rollouts.rewards + rollouts.shaping, rollouts.group_size)
        of_tokens = centred[:, None] * mask
        return policy_batch(
            rollouts,
            annotations,
            advantages=whiten_batch(of_tokens, mask, sum_over_ranks(moments(of_tokens, mask))),
            attribution=group_attribution(centred, rollouts.group_size),
            kl_coef=self.kl_coef,
        )
