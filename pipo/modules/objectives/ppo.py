"""PPO: generalised advantage estimation (GAE) with a critic, and the KL penalty in the reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pipo.functional.advantages import gae, moments, whiten_batch
from pipo.functional.shaping import kl_shaped_rewards
from pipo.modules.objectives.base import CriticConfig, Objective, policy_batch
from pipo.records.batches import Annotations, PolicyBatch, ValueTargets
from pipo.records.rollouts import Rollouts


class PPO(Objective):
    """Proximal policy optimisation.

    Args:
        gamma: discount per token.
        gae_lambda: mixing of advantages over horizons.
        kl_reward_coef: weight of the k1 penalty that is subtracted from each token's reward.
        critic: the critic's options.
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    def __init__(
        self,
        *,
        gamma: float,
        gae_lambda: float,
        kl_reward_coef: float,
        critic: CriticConfig,
        **clip_and_loss: Any,
    ) -> None:
        super().__init__(**clip_and_loss)
        for name, value in (("gamma", gamma), ("gae_lambda", gae_lambda)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        if not 0 <= kl_reward_coef < float("inf"):
            raise ValueError(f"kl_reward_coef must be >= 0, got {kl_reward_coef}")
        self.gamma, self.gae_lambda, self.kl_reward_coef = gamma, gae_lambda, kl_reward_coef
        if not isinstance(critic, CriticConfig):
            raise ValueError(f"critic is required, got {critic!r}")
        self.critic = critic

    @property
    def needs_reference(self) -> bool:
        """The reference is needed for the KL penalty in the reward too."""
        return super().needs_reference or self.kl_reward_coef != 0

    def prepare(
        self, rollouts: Rollouts, annotations: Annotations, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> PolicyBatch:
        """Whitened advantages per token; the same serve as attribution, as the base objective used them."""
        values, old = annotations.values, annotations.old_logprobs
        assert values is not None
        mask = rollouts.completions.sampled
        reference = old if annotations.ref_logprobs is None else annotations.ref_logprobs
        rewards = kl_shaped_rewards(
            rollouts.rewards + rollouts.shaping, old, reference, mask, self.kl_reward_coef
        )
        raw, returns = gae(rewards, values, mask, self.gamma, self.gae_lambda)
        advantages = whiten_batch(raw, mask, sum_over_ranks(moments(raw, mask)))
        return policy_batch(
            rollouts,
            annotations,
            advantages=advantages,
            attribution=advantages,
            kl_coef=self.kl_coef,
            value_targets=ValueTargets(old_values=values, returns=returns),
        )
