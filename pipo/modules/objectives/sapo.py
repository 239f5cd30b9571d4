"""SAPO: a smooth gate on the token ratio in the place of a clip range."""

from __future__ import annotations

import math

from torch import Tensor

from pipo.functional.aggregation import Aggregation
from pipo.functional.divergence import KlEstimator
from pipo.functional.surrogate import soft_gate
from pipo.modules.objectives.base import MicroBatch
from pipo.modules.objectives.grpo import GRPO


class SAPO(GRPO):
    """Soft adaptive policy optimisation (arXiv 2511.20347, equations 5 and 6).

    Args:
        temperature_positive: how fast the gate closes for a positive advantage.
        temperature_negative: for a negative one, where pushing a token down lifts all the others.
        advantage_eps: see :class:`~pipo.modules.objectives.grpo.GRPO`.
        aggregation: see :class:`~pipo.modules.objectives.base.Objective`, like the next two.
        kl_coef: weight of the penalty.
        kl_estimator: the penalty.
    """

    authors_minimum = False

    def __init__(
        self,
        *,
        temperature_positive: float,
        temperature_negative: float,
        advantage_eps: float,
        aggregation: Aggregation,
        kl_coef: float,
        kl_estimator: KlEstimator = "k3",
    ) -> None:
        super().__init__(
            advantage_eps=advantage_eps,
            clip_low=1.0,
            clip_high=math.inf,
            dual_clip=None,
            aggregation=aggregation,
            kl_coef=kl_coef,
            kl_estimator=kl_estimator,
        )
        for name, value in (("positive", temperature_positive), ("negative", temperature_negative)):
            if not 0 < value < math.inf:
                raise ValueError(f"temperature_{name} must be positive and finite, got {value}")
        self.temperatures = (temperature_positive, temperature_negative)

    def surrogate(self, ratio: Tensor, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """-f(ratio) * A."""
        return -soft_gate(ratio, micro.advantages, *self.temperatures)[0] * micro.advantages

    def clipped(self, ratio: Tensor, micro: MicroBatch) -> Tensor:
        """Tokens more than half of whose gradient the gate took; none loses all of it."""
        slope = soft_gate(ratio, micro.advantages, *self.temperatures)[1]
        return (micro.advantages != 0) & (slope < 0.5)
