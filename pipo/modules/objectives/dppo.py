"""DPPO: a token is left out where its probability has moved too far, and not where its ratio has."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipo.functional.advantages import group_centred
from pipo.functional.aggregation import Aggregation
from pipo.functional.divergence import BinaryDivergence, KlEstimator, binary_divergence
from pipo.modules.objectives.base import MicroBatch
from pipo.modules.objectives.group import GroupObjective


class DPPO(GroupObjective):
    """Divergence proximal policy optimisation (arXiv 2602.04879, equations 12 to 14 and 23).

    A clip range on the ratio holds rare tokens back, whose ratio is large while hardly any probability moves,
    and lets frequent ones go. Here the divergence of the two policies decides, by the sampled token against
    all others. It is taken from the policy that sampled, as the trainer knows it; the paper takes the
    sampler's own log-probabilities, which are the same where both compute alike.

    Args:
        divergence: ``tv`` or ``kl``.
        threshold: a token further than this is left out, unless its update would bring it back.
        ratio_cap: the ratio weighs a token up to this; None for no bound.
        aggregation: see :class:`~pipo.modules.objectives.base.Objective`, like the next two.
        kl_coef: weight of the penalty.
        kl_estimator: the penalty.
    """

    def __init__(
        self,
        *,
        divergence: BinaryDivergence,
        threshold: float,
        ratio_cap: float | None,
        aggregation: Aggregation,
        kl_coef: float,
        kl_estimator: KlEstimator = "k3",
    ) -> None:
        super().__init__(
            clip_low=1.0,
            clip_high=math.inf,
            dual_clip=None,
            aggregation=aggregation,
            kl_coef=kl_coef,
            kl_estimator=kl_estimator,
        )
        if not 0 < threshold < math.inf:
            raise ValueError(f"threshold must be positive and finite, got {threshold}")
        if divergence == "tv" and threshold >= 1:
            raise ValueError(f"threshold must be below 1 with divergence=tv, got {threshold}")
        if ratio_cap is not None and not ratio_cap >= 1:
            raise ValueError(f"ratio_cap must be >= 1 or null, got {ratio_cap}")
        self.divergence: BinaryDivergence = divergence
        self.threshold, self.ratio_cap = threshold, ratio_cap

    def advantages(self, rewards: Tensor, group_size: int) -> Tensor:
        """r_i minus the mean reward of its group."""
        return group_centred(rewards, group_size)

    def surrogate(self, ratio: Tensor, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """-min(ratio, cap) * A * log pi with the ratio as a constant, 0 on tokens that are left out."""
        far = self._beyond(ratio.detach(), logprobs.detach(), micro)
        weight = ratio.detach() if self.ratio_cap is None else ratio.detach().clamp(max=self.ratio_cap)
        return -torch.where(far, torch.zeros_like(weight), weight) * micro.advantages * logprobs

    def clipped(self, ratio: Tensor, micro: MicroBatch) -> Tensor:
        """Tokens that are left out."""
        return self._beyond(ratio, micro.old_logprobs + ratio.log(), micro)

    def _beyond(self, ratio: Tensor, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """Bool [n, R]: beyond the threshold, and about to go further."""
        away = ((micro.advantages > 0) & (ratio > 1)) | ((micro.advantages < 0) & (ratio < 1))
        distance = binary_divergence(logprobs, micro.old_logprobs, self.divergence)
        return away & (distance > self.threshold)
