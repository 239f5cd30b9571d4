"""The seam of the algorithms: an objective turns graded responses into a batch, and a batch into a loss.

The training loop does not know which objective it runs, and policy improvement is another batch through the
same objective, never another loss. A new algorithm is one class and one file in ``conf/algo``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pipo.modules.functional.aggregation import Aggregation, aggregate
from pipo.modules.functional.divergence import kl_k3
from pipo.modules.functional.surrogate import ClipRange, clipped_surrogate_loss, clipped_tokens, token_ratio
from pipo.records import Annotations, PolicyBatch, Rollouts


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The rows of a :class:`~pipo.records.PolicyBatch` that share one forward and backward pass.

    Attributes:
        input_ids: int64 [n, T], prompt and response, right-padded.
        sequence_mask: bool [n, T], True on response tokens.
        response_mask: bool [n, r], the same tokens, aligned on the first response position.
        old_logprobs: float32 [n, r].
        advantages: float32 [n, r].
        ref_logprobs: float32 [n, r] or None.
        kl_coef: weight of the k3 penalty.
    """

    input_ids: Tensor
    sequence_mask: Tensor
    response_mask: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    ref_logprobs: Tensor | None
    kl_coef: float

    def to(self, device: torch.device) -> MicroBatch:
        """The same rows on another device."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What an objective says about one micro-batch.

    Attributes:
        value: scalar with gradient: this micro-batch's share of the optimiser step's loss.
        metrics: name -> (sum, count), added up over micro-batches and ranks before dividing.
    """

    value: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]]


class Objective(ABC):
    """Base objective with the clipped surrogate; subclasses say where advantages come from.

    Args:
        clip_low: the ratio is clipped below at 1 - clip_low.
        clip_high: the ratio is clipped above at 1 + clip_high.
        dual_clip: bound on the loss of negative advantages; None for none.
        aggregation: denominator of the loss, see :mod:`pipo.modules.functional.aggregation`.
        kl_coef: weight of the k3 penalty against the reference model; 0 loads no reference.
    """

    #: Smallest group size that the objective can work with.
    min_group_size: int = 1

    def __init__(
        self,
        *,
        clip_low: float,
        clip_high: float,
        dual_clip: float | None,
        aggregation: Aggregation,
        kl_coef: float,
    ) -> None:
        if aggregation not in ("token-mean", "seq-mean-token-mean"):
            raise ValueError(f"aggregation must be token-mean or seq-mean-token-mean, got {aggregation!r}")
        if kl_coef < 0:
            raise ValueError(f"kl_coef must be >= 0, got {kl_coef}")
        self.clip = ClipRange(low=clip_low, high=clip_high, dual=dual_clip)
        self.aggregation: Aggregation = aggregation
        self.kl_coef = kl_coef

    @property
    def needs_reference(self) -> bool:
        """Whether the reference model's log-probabilities must be annotated."""
        return self.kl_coef != 0

    @abstractmethod
    def prepare(self, rollouts: Rollouts, annotations: Annotations) -> PolicyBatch:
        """Advantages and attribution of every response token."""

    def ratio(self, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """Probability ratio at the objective's own level, [n, r]; tokens unless overridden."""
        return token_ratio(logprobs, micro.old_logprobs)

    def loss(self, logprobs: Tensor, micro: MicroBatch, total: float) -> Loss:
        """Clipped surrogate plus the KL penalty.

        Args:
            logprobs: float32 [n, r], the current policy's, 0 on padding, with gradient.
            micro: the rows.
            total: denominator of the whole optimiser step over all ranks.
        """
        mask = micro.response_mask
        ratio = self.ratio(logprobs, micro)
        surrogate = clipped_surrogate_loss(ratio, micro.advantages, self.clip)
        value = aggregate(surrogate, mask, self.aggregation, total)
        count = mask.sum()
        with torch.no_grad():
            clipped = clipped_tokens(ratio, micro.advantages, self.clip) & mask
            metrics = {
                "clip_fraction": (clipped.sum(), count),
                "kl_old": ((kl_k3(logprobs, micro.old_logprobs) * mask).sum(), count),
                "entropy": (-(logprobs * mask).sum(), count),
            }
        if micro.ref_logprobs is not None and micro.kl_coef != 0:
            penalty = kl_k3(logprobs, micro.ref_logprobs)
            value = value + micro.kl_coef * aggregate(penalty, mask, self.aggregation, total)
            metrics["kl_ref"] = ((penalty.detach() * mask).sum(), count)
        return Loss(value=value, metrics=metrics)
