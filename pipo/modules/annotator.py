"""Annotate fresh rollouts: old and reference log-probabilities, values, teacher, weights, sampling mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipo.distributed.metrics import IterationMetrics
from pipo.functional.importance import importance_weights
from pipo.lm.critic import Critic
from pipo.lm.reference import Scorer
from pipo.lm.sharding import reshard
from pipo.modules.annotation import cut_responses, score_responses
from pipo.modules.model_holder import ModelHolder
from pipo.modules.objectives.base import Distillation
from pipo.records.batches import Annotations, Recalled, TeacherAnnotation
from pipo.records.correction import ImportanceCorrection
from pipo.records.cut import Cut
from pipo.records.kept import KeptTokens
from pipo.records.rollouts import Rollouts, TokenIds

Privileged = Callable[[Rollouts, Distillation], tuple[TokenIds | None, ...]]


class Annotator:
    """Scores rollouts with every model that the objective asks for.

    Args:
        models: the models.
        privileged: the self-teacher's prompts for graded responses; used by objectives that distil.
        importance: weights for the sampler's distance from the policy.
        temperature: of sampling, defines the policy.
        cut: what of the distribution is sampled, defines the policy too; None for all of it.
        token_budget: see :func:`~pipo.modules.batching.row_groups`.
    """

    def __init__(
        self,
        models: ModelHolder,
        *,
        privileged: Privileged,
        importance: ImportanceCorrection,
        temperature: float,
        cut: Cut | None,
        token_budget: int,
    ) -> None:
        self.models = models
        self.privileged, self.importance, self.cut = privileged, importance, cut
        self.temperature, self.token_budget = temperature, token_budget

    def annotate(self, rollouts: Rollouts, metrics: IterationMetrics) -> Annotations:
        """Log-probabilities of the behaviour policy and the reference, before any weight moves."""
        models, sampled, kept = self.models, rollouts.completions.logprobs, None
        if self.cut is not None:
            old, kept = cut_responses(models.policy, rollouts, self.cut, **self._how())
            reshard(models.policy)
            metrics.add("rollout/kept_tokens", len(kept.ids), rollouts.completions.sampled.sum())
        else:
            old = sampled if models.samples_as_it_trains else self.score(models.policy, rollouts)
        values = self.score(models.critic, rollouts) if models.objective.critic is not None else None
        reference, earlier = models.reference, models.objective.recall(rollouts)
        return Annotations(
            old_logprobs=old,
            importance=self._correct_sampler(old, sampled, rollouts.completions.sampled, metrics),
            ref_logprobs=None if reference is None else self.score(reference, rollouts, kept=kept),
            values=values,
            teacher=self._annotate_teacher(rollouts, kept, metrics),
            kept=kept,
            recalled=None
            if earlier is None
            else Recalled(
                completions=earlier,
                logprobs=self.score(models.policy, rollouts, completions=earlier, group_size=1),
            ),
        )

    def _correct_sampler(
        self, trainer: Tensor, sampler: Tensor, mask: Tensor, metrics: IterationMetrics
    ) -> Tensor | None:
        """Importance weights of the tokens, and how far the sampler is from the trainer."""
        gap, count = ((trainer - sampler) * mask).abs(), mask.sum()
        metrics.add("rollout/logprob_diff", gap.sum(), count)
        metrics.add("rollout/logprob_diff_max", self.models.max_over_ranks(gap.max().item()))
        if not self.importance.corrects:
            return None
        weights = importance_weights(trainer, sampler, mask, self.importance)
        metrics.add("rollout/importance_weight", weights.sum(), count)
        cap = math.inf if self.importance.cap is None else self.importance.cap
        metrics.add("rollout/importance_capped", (weights >= cap).sum(), count)
        if self.importance.rejection is not None:
            metrics.add("rollout/rejected", ((weights == 0) & mask).sum(), count)
        return weights

    def _annotate_teacher(
        self, rollouts: Rollouts, kept: KeptTokens | None, metrics: IterationMetrics
    ) -> TeacherAnnotation | None:
        """Privileged prompts, and what the teacher thinks of the sampled tokens."""
        distillation = self.models.objective.distillation
        if distillation is None:
            return None
        prompts = self.privileged(rollouts, distillation)
        taught = torch.tensor([i for i, ids in enumerate(prompts) if ids is not None], dtype=torch.int64)
        metrics.add("rollout/taught", len(taught), len(prompts))
        completed = [ids if ids is not None else () for ids in prompts]
        logprobs = self.score(
            self.models.teacher, rollouts, prompts=completed, group_size=1, rows=taught, kept=kept
        )
        return TeacherAnnotation(prompt_ids=prompts, logprobs=logprobs)

    def score(self, model: Scorer | Critic, rollouts: Rollouts, **other: Any) -> Tensor:
        """What a model says about the sampled tokens; see :func:`score_responses`."""
        scores = score_responses(model, rollouts, **self._how(), **other)
        reshard(model)
        return scores

    def _how(self) -> dict[str, Any]:
        """How responses are scored, whoever does it."""
        return {
            "temperature": self.temperature,
            "token_budget": self.token_budget,
            "device": self.models.device,
            "passes": self.models.passes,
        }
