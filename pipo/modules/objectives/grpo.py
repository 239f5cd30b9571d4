"""GRPO: advantages relative to the group of each prompt, ratio and clipping per token."""

from __future__ import annotations

from typing import Any

from pipo.modules.functional.advantages import group_attribution, group_relative_advantages
from pipo.modules.objectives.base import Objective
from pipo.records import Annotations, PolicyBatch, Rollouts


class GRPO(Objective):
    """Group relative policy optimisation.

    Args:
        advantage_eps: added to the group's sample standard deviation.
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    min_group_size = 2

    def __init__(self, *, advantage_eps: float, **clip_and_loss: Any) -> None:
        super().__init__(**clip_and_loss)
        self.advantage_eps = advantage_eps

    def prepare(self, rollouts: Rollouts, annotations: Annotations) -> PolicyBatch:
        """One advantage per response, the same on each of its tokens."""
        mask = rollouts.completions.response_mask
        advantages = group_relative_advantages(rollouts.rewards, rollouts.group_size, self.advantage_eps)
        attribution = group_attribution(advantages, rollouts.group_size)
        return PolicyBatch(
            prompt_ids=rollouts.prompts.prompt_ids,
            group_size=rollouts.group_size,
            response_ids=rollouts.completions.response_ids,
            response_mask=mask,
            old_logprobs=annotations.old_logprobs,
            advantages=advantages[:, None] * mask,
            attribution=attribution[:, None] * mask,
            ref_logprobs=annotations.ref_logprobs,
            kl_coef=self.kl_coef,
        )
