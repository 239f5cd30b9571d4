"""Base class of objectives: advantages from graded responses, and the clipped policy loss of a batch.

The training loop does not know which objective it runs, and policy improvement is another batch through the
same objective, never another loss. A new algorithm is one class and one file in ``conf/algo``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipo.functional.aggregation import Aggregation, aggregate, denominator
from pipo.functional.divergence import DistillationForm, KlEstimator, kl_k2, kl_k3, kl_k3_corrected
from pipo.functional.surrogate import (
    ClipRange,
    clipped_surrogate_loss,
    clipped_tokens,
    plain_minimum_loss,
    token_ratio,
)
from pipo.lm.packing import PackedRows
from pipo.records.batches import Annotations, PolicyBatch, ValueTargets
from pipo.records.movable import Movable
from pipo.records.options import Cap, CountOrNone, Options, Positive, Share
from pipo.records.rollouts import Completions, Rollouts, TokenIds


@dataclass(frozen=True, kw_only=True)
class MicroBatch(Movable):
    """The rows of a :class:`~pipo.records.batches.PolicyBatch` that share one forward and backward pass."""

    rows: PackedRows
    """The n prompts and responses, for a forward pass that scores the sampled tokens."""
    sampled: Tensor
    """bool [n, r], True on the sampled tokens, which everything below and the loss is about; inserted tokens
    and padding are False alike.
    """
    old_logprobs: Tensor
    """float32 [n, r], log-probabilities under the policy that sampled the batch."""
    advantages: Tensor
    """float32 [n, r], weight of each token in the surrogate."""
    ref_logprobs: Tensor | None
    """float32 [n, r], the reference model's; None when no term uses it."""
    kl_coef: float
    """Weight of the k3 penalty."""
    teacher_rows: PackedRows | None
    """Teacher prompts and the same responses; None without distillation."""
    value_targets: ValueTargets | None
    """[n, r] each; None without a critic."""
    weight: Tensor | None = None
    """float32 [n, r], factor on each token's divergence and corrected penalty; None for 1."""
    plain_minimum: bool = False
    """See :class:`~pipo.records.batches.PolicyBatch`."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What an objective says about one micro-batch."""

    value: Tensor
    """Scalar with gradient: this micro-batch's share of the optimiser step's loss."""
    metrics: Mapping[str, tuple[Tensor, Tensor]]
    """Name -> (sum, count), added up over micro-batches and ranks before dividing."""

    def detached(self) -> Loss:
        """The same numbers in double precision, without the graph that they came from."""
        metrics = {name: (_number(total), _number(count)) for name, (total, count) in self.metrics.items()}
        return Loss(value=_number(self.value), metrics=metrics)


def _number(value: Tensor) -> Tensor:
    return value.detach().double()


def on_cpu(losses: Sequence[Loss], norm: Tensor) -> tuple[list[Loss], Tensor]:
    """The numbers of an optimiser step on the CPU, which waits for the device once and not for each.

    Args:
        losses: of the micro-batches, detached.
        norm: of their gradient, where the losses are.
    """
    numbers = [_number(norm)]
    for loss in losses:
        numbers += [loss.value, *(each for pair in loss.metrics.values() for each in pair)]
    read = iter(torch.stack([each.to(norm.device) for each in numbers]).cpu())
    first = next(read)
    moved = [
        Loss(value=next(read), metrics={name: (next(read), next(read)) for name in loss.metrics})
        for loss in losses
    ]
    return moved, first


class CriticConfig(Options):
    """The critic of an objective that estimates values."""

    learning_rate_scale: Positive
    """The critic's learning rate, relative to the policy's."""
    value_clip: Annotated[float, Field(gt=0)]
    """The value loss follows a value at most this far from its old one."""
    warmup_iterations: CountOrNone
    """Iterations in which only the critic learns."""


class Distillation(Options):
    """How a policy learns from itself with privileged information."""

    form: DistillationForm
    """The divergence."""
    from_siblings: bool
    """Show the teacher a successful response of the same group."""
    from_feedback: bool
    """Show the teacher what the task says about the response."""
    success_threshold: Share
    """A response with at least this verifier reward is successful."""
    teacher_average: Share
    """Weight of the new weights in the teacher's moving average after each iteration; 1 takes the current
    policy as the teacher."""
    ratio_cap: Cap | None
    """Each token's divergence counts min(pi / pi_old, ratio_cap) times; None for once."""
    drop_thoughts: bool
    """Show of a successful response only what it says after its thought."""
    feedback_beside_solution: bool
    """Show the feedback also where there is a successful response to show."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.from_siblings or self.from_feedback):
            raise ValueError("a self-teacher needs from_siblings or from_feedback")
        return self


class Objective(ABC):
    """Base objective with the clipped surrogate; subclasses say where advantages come from.

    Args:
        clip_low: the ratio is clipped below at 1 - clip_low.
        clip_high: the ratio is clipped above at 1 + clip_high.
        dual_clip: bound on the loss of negative advantages; None for none.
        aggregation: denominator of the loss, see :mod:`pipo.functional.aggregation`.
        kl_coef: weight of the penalty against the reference model; 0 loads no reference.
        kl_estimator: ``k3``; ``k2``, half the square of the log-ratio; or ``k3_corrected``, weighted by
            pi / pi_old and by the sampler's importance weights, with the gradient of KL(pi || reference).
    """

    min_group_size: int = 1
    """Smallest group size that the objective can work with."""
    recalls: bool = False
    """Whether earlier responses are scored again by the present policy; see :meth:`recall`."""
    draws_prompts: bool = False
    """Whether the prompts of an iteration are drawn by :meth:`prompt_weights`, and not epoch by epoch."""
    authors_minimum: bool = False
    """Whether the authors' code of PIPO has -min(nu, clip(nu)) r_hat with this objective."""
    critic: CriticConfig | None = None
    """Options of the critic; None for an objective without one."""
    distillation: Distillation | None = None
    """Options of self-distillation; None for an objective without a self-teacher."""

    def __init__(
        self,
        *,
        clip_low: float,
        clip_high: float,
        dual_clip: float | None,
        aggregation: Aggregation,
        kl_coef: float,
        kl_estimator: KlEstimator = "k3",
    ) -> None:
        if kl_estimator not in get_args(KlEstimator):
            choices = " or ".join(get_args(KlEstimator))
            raise ValueError(f"kl_estimator must be {choices}, got {kl_estimator!r}")
        if aggregation not in ("token-mean", "seq-mean-token-mean"):
            raise ValueError(f"aggregation must be token-mean or seq-mean-token-mean, got {aggregation!r}")
        if not 0 <= kl_coef < float("inf"):
            raise ValueError(f"kl_coef must be >= 0, got {kl_coef}")
        self.clip = ClipRange(low=clip_low, high=clip_high, dual=dual_clip)
        self.aggregation: Aggregation = aggregation
        self.kl_coef, self.kl_estimator = kl_coef, kl_estimator

    @property
    def needs_reference(self) -> bool:
        """Whether the reference model's log-probabilities must be annotated."""
        return self.kl_coef != 0

    def recall(self, rollouts: Rollouts) -> Completions | None:
        """One earlier response to each prompt, to be scored by the present policy before :meth:`prepare`.

        All ranks are asked together, and either all answer or none.

        Args:
            rollouts: fresh responses of this rank.
        """
        return None

    def prompt_weights(self, names: Sequence[str]) -> Tensor:
        """What the chance of each problem to be drawn for the next iteration is proportional to.

        Asked where :attr:`draws_prompts` is set, on each rank alone; all must say the same.

        Args:
            names: uids of the training problems.

        Returns:
            float64, one for each, not negative.
        """
        return torch.ones(len(names), dtype=torch.float64)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered from iteration to iteration, for checkpoints: the same on every rank.

        Tensors, numbers, texts, lists and dictionaries. :meth:`prepare` is what moves it, once per iteration.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        if state:
            raise ValueError(f"this objective remembers nothing, and is given {', '.join(state)}")

    @abstractmethod
    def prepare(
        self, rollouts: Rollouts, annotations: Annotations, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> PolicyBatch:
        """Advantages and attribution of every sampled token; once per iteration, on all ranks together.

        Args:
            rollouts: graded responses of this rank.
            annotations: what the models said about them.
            sum_over_ranks: sums a CPU tensor over ranks, for statistics of the whole batch.
        """

    def denominator(self, mask: Tensor) -> Tensor:
        """This rank's share of the loss's denominator, from the sampled tokens of a mini-batch."""
        return denominator(mask, self.aggregation)

    def aggregate(self, values: Tensor, mask: Tensor, total: float) -> Tensor:
        """This micro-batch's share of the aggregated value."""
        return aggregate(values, mask, self.aggregation, total)

    def ratio(self, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """Probability ratio at the objective's own level, [n, r]; tokens unless overridden."""
        return token_ratio(logprobs, micro.old_logprobs)

    def surrogate(self, ratio: Tensor, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """Loss per token before aggregation, [n, r]; clipped unless overridden."""
        if micro.plain_minimum:
            return plain_minimum_loss(ratio, micro.advantages, self.clip)
        return clipped_surrogate_loss(ratio, micro.advantages, self.clip)

    def clipped(self, ratio: Tensor, micro: MicroBatch) -> Tensor:
        """Bool [n, r]: tokens that the trust region acted on, for the metrics."""
        if micro.plain_minimum:
            return (micro.advantages != 0) & (ratio > 1 + self.clip.high)
        return clipped_tokens(ratio, micro.advantages, self.clip)

    def penalty(self, logprobs: Tensor, ref_logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """Estimate of KL(pi || reference) per token, [n, r]."""
        if self.kl_estimator != "k3_corrected":
            return (kl_k2 if self.kl_estimator == "k2" else kl_k3)(logprobs, ref_logprobs)
        return kl_k3_corrected(logprobs, micro.old_logprobs, ref_logprobs, micro.weight)

    def loss(self, values: Tensor, micro: MicroBatch, total: float) -> Loss:
        """Surrogate plus the KL penalty, or the distance from the self-teacher.

        Args:
            values: float32 [n, r], with gradient: the policy's log-probabilities of the sampled tokens,
                or its divergence from the teacher there when ``micro`` carries a teacher.
            micro: the rows.
            total: denominator of the whole optimiser step over all ranks.
        """
        mask = micro.sampled
        if micro.teacher_rows is not None:
            divergence = (values.detach() * mask).sum(), mask.sum()
            weighted = values if micro.weight is None else values * micro.weight
            return Loss(value=self.aggregate(weighted, mask, total), metrics={"divergence": divergence})
        logprobs = values
        ratio = self.ratio(logprobs, micro)
        value = self.aggregate(self.surrogate(ratio, logprobs, micro), mask, total)
        count = mask.sum()
        with torch.no_grad():
            clipped = self.clipped(ratio, micro) & mask
            metrics = {
                "clip_fraction": (clipped.sum(), count),
                "kl_old": ((kl_k3(logprobs, micro.old_logprobs) * mask).sum(), count),
                "entropy": (-(logprobs * mask).sum(), count),
            }
        if micro.ref_logprobs is not None:
            penalty = self.penalty(logprobs, micro.ref_logprobs, micro)
            if micro.kl_coef != 0:
                value = value + micro.kl_coef * self.aggregate(penalty, mask, total)
            metrics["kl_ref"] = ((penalty.detach() * mask).sum(), count)
        return Loss(value=value, metrics=metrics)


def policy_batch(
    rollouts: Rollouts,
    annotations: Annotations,
    *,
    advantages: Tensor,
    attribution: Tensor,
    kl_coef: float,
    teacher_prompt_ids: tuple[TokenIds | None, ...] | None = None,
    value_targets: ValueTargets | None = None,
) -> PolicyBatch:
    """Put a batch together from its parts.

    The surrogate is linear in the size of its advantages, so importance weights of the sampler multiply
    these, and the attribution for the same reason; a distillation loss and a corrected penalty have them
    beside.

    Args:
        rollouts: the responses.
        annotations: what the models said about them.
        advantages: [N], one per response, or [N, R].
        attribution: [N] or [N, R].
        kl_coef: weight of the k3 penalty.
        teacher_prompt_ids: see :class:`~pipo.records.batches.PolicyBatch`.
        value_targets: see :class:`~pipo.records.batches.PolicyBatch`.
    """
    sampled = rollouts.completions.sampled
    weight = sampled if annotations.importance is None else annotations.importance

    def per_token(values: Tensor) -> Tensor:
        return (values[:, None] if values.dim() == 1 else values) * weight

    return PolicyBatch(
        prompt_ids=rollouts.prompts.prompt_ids,
        group_size=rollouts.group_size,
        response_ids=rollouts.completions.response_ids,
        response_mask=rollouts.completions.response_mask,
        sampled=sampled,
        old_logprobs=annotations.old_logprobs,
        advantages=per_token(advantages),
        attribution=per_token(attribution),
        ref_logprobs=annotations.ref_logprobs,
        kl_coef=kl_coef,
        teacher_prompt_ids=teacher_prompt_ids,
        value_targets=value_targets,
        importance=annotations.importance,
        kept=annotations.kept,
    )
