"""SDPO: self-distillation from the policy itself, prompted with what it did not know when it answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipo.functional.divergence import token_attribution
from pipo.modules.objectives.base import Distillation, Objective, policy_batch
from pipo.records.batches import Annotations, PolicyBatch
from pipo.records.rollouts import Rollouts


class SDPO(Objective):
    """Self-distillation policy optimisation (arXiv 2601.20802).

    The base update lowers the divergence from the teacher over the whole vocabulary; responses without
    privileged information are masked out. Policy improvement re-uses the batch through the clipped surrogate,
    with log pi_teacher - log pi_student of each sampled token as its attribution.

    Args:
        distillation: the teacher and the divergence.
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    min_group_size = 2

    def __init__(self, *, distillation: Distillation, **clip_and_loss: Any) -> None:
        super().__init__(**clip_and_loss)
        if self.kl_coef != 0:
            raise ValueError("kl_coef must be 0: the distillation loss has no penalty against a reference")
        if not isinstance(distillation, Distillation):
            raise ValueError(f"distillation is required, got {distillation!r}")
        self.distillation = distillation

    def prepare(
        self, rollouts: Rollouts, annotations: Annotations, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> PolicyBatch:
        """No advantages: the loss is the divergence."""
        teacher, old = annotations.teacher, annotations.old_logprobs
        assert teacher is not None
        taught = torch.tensor([ids is not None for ids in teacher.prompt_ids])
        attribution = token_attribution(old, teacher.logprobs) * taught[:, None]
        return policy_batch(
            rollouts,
            annotations,
            advantages=torch.zeros_like(old),
            attribution=attribution,
            kl_coef=self.kl_coef,
            teacher_prompt_ids=teacher.prompt_ids,
        )
