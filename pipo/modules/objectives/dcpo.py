"""DCPO: a clip range by the token's probability, and advantages that remember the prompt's past rewards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

from torch import Tensor

from pipo.distributed.collectives import all_gather
from pipo.functional.advantages import group_attribution, group_centred
from pipo.functional.aggregation import Aggregation
from pipo.functional.divergence import KlEstimator
from pipo.functional.reward_history import UNVISITED, RewardHistory, smoothed_advantages
from pipo.functional.surrogate import loss_within, probability_clip_range
from pipo.modules.objectives.base import MicroBatch
from pipo.modules.objectives.group import ComparingObjective
from pipo.records.rollouts import Rollouts


class DCPO(ComparingObjective):
    """Dynamic clipping policy optimisation (arXiv 2509.02333, equations 4 to 8).

    The paper adds responses up where others take their mean (equation 8); in batches of one size that is a
    constant factor, which AdamW does not see.

    Args:
        epsilon_low: of the lower clip bound, see :func:`~pipo.functional.surrogate.probability_clip_range`.
        epsilon_high: of the upper one.
        ratio_cap: no ratio counts for more, whatever the sign of the advantage.
        aggregation: see :class:`~pipo.modules.objectives.base.Objective`, like the next two.
        kl_coef: weight of the penalty.
        kl_estimator: the penalty.
    """

    def __init__(
        self,
        *,
        epsilon_low: float,
        epsilon_high: float,
        ratio_cap: float,
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
        for name, value in (("epsilon_low", epsilon_low), ("epsilon_high", epsilon_high)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 1 < ratio_cap < math.inf:
            raise ValueError(f"ratio_cap must be > 1 and finite, got {ratio_cap}")
        self.epsilons, self.ratio_cap = (epsilon_low, epsilon_high), ratio_cap
        #: By the problem's uid; the same on every rank.
        self.histories: dict[str, RewardHistory] = {}

    def compare(
        self, rewards: Tensor, rollouts: Rollouts, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Smoothed advantages; the visits of all ranks are remembered for the next time."""
        size, names = rollouts.group_size, [example.uid for example in rollouts.prompts.examples]
        before = [self.histories.get(name, UNVISITED) for name in names]
        advantages, _ = smoothed_advantages(rewards, size, before)
        groups = rewards.double().view(-1, size)
        # A group that stands in for none has no tokens.
        real = rollouts.completions.sampled.view(len(names), -1).any(dim=1).tolist()
        visits = zip(
            names, groups.mean(dim=1).tolist(), groups.var(dim=1, correction=0).tolist(), strict=True
        )
        self._remember([visit for visit, counts in zip(visits, real, strict=True) if counts])
        return advantages

    def attribute(self, advantages: Tensor, rollouts: Rollouts) -> Tensor:
        """Shares of the group's own differences: what the prompt has had before is nobody's merit here."""
        centred = group_centred(rollouts.rewards + rollouts.shaping, rollouts.group_size)
        return group_attribution(centred, rollouts.group_size)

    def _remember(self, own: list[tuple[str, float, float]]) -> None:
        """Add the visits of all ranks, in the order of the prompts over them."""
        of_ranks = all_gather(own)
        for place in range(max(map(len, of_ranks))):
            for visits in of_ranks:
                if place < len(visits):
                    name, mean, variance = visits[place]
                    self.histories[name] = self.histories.get(name, UNVISITED).visited(mean, variance)

    def surrogate(self, ratio: Tensor, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """The clipped surrogate with a range for each token."""
        low, high = self._range(micro)
        return loss_within(ratio, micro.advantages, low, high, self.ratio_cap)

    def clipped(self, ratio: Tensor, micro: MicroBatch) -> Tensor:
        """Tokens beyond their own range."""
        low, high = self._range(micro)
        return ((micro.advantages > 0) & (ratio > high)) | ((micro.advantages < 0) & (ratio < low))

    def _range(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        return probability_clip_range(micro.old_logprobs, *self.epsilons, self.ratio_cap)

    def state_dict(self) -> dict[str, Any]:
        """Visits, mean reward and variance of every prompt so far."""
        return {"histories": {name: list(astuple(each)) for name, each in self.histories.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self.histories = {
            name: RewardHistory(visits=visits, mean=mean, variance=variance)
            for name, (visits, mean, variance) in state["histories"].items()
        }
