"""Rewards that a prompt has had so far, and advantages that are standardised by them as well (DCPO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipo.functional.advantages import group_centred

# Below this the rewards are all one and the same, but for rounding.
MIN_VARIANCE = 1e-12


@dataclass(frozen=True, kw_only=True)
class RewardHistory:
    """Rewards of all responses to one prompt so far, each visit with as many."""

    visits: int
    """Times that the prompt was answered."""
    mean: float
    """Mean reward."""
    variance: float
    """Population variance of the rewards."""

    def visited(self, mean: float, variance: float) -> RewardHistory:
        """With one more visit of this mean and population variance (equations 29 and 30)."""
        i = self.visits + 1
        between = self.visits / i * (self.mean - mean) ** 2
        return RewardHistory(
            visits=i,
            mean=(mean + self.visits * self.mean) / i,
            variance=(variance + self.visits * self.variance + between) / i,
        )


UNVISITED = RewardHistory(visits=0, mean=0.0, variance=0.0)


def smoothed_advantages(
    rewards: Tensor, group_size: int, before: Sequence[RewardHistory]
) -> tuple[Tensor, list[RewardHistory]]:
    """Smooth advantage standardisation (DCPO, arXiv 2509.02333, equations 5 to 7).

    With n the reward standardised by its group alone and c by all rewards of the prompt, the group included,
    at its i-th visit: the one of ((i - 1) n + c) / i and (n + (i - 1) c) / i that is closer to zero. So
    a group without differences still teaches whether it is better or worse than the prompt has been.

    i counts the visits to the prompt, as in the authors' code; the deviations are the population's, as in the
    paper's equations.

    Args:
        rewards: [B * G], group-major.
        group_size: G.
        before: B histories, without this visit.

    Returns:
        [B * G], and the B histories with this visit.
    """
    groups = rewards.double().view(-1, group_size)
    means, variances = groups.mean(dim=1), groups.var(dim=1, correction=0)
    after = [
        history.visited(mean, variance)
        for history, mean, variance in zip(before, means.tolist(), variances.tolist(), strict=True)
    ]
    total_mean, total_variance, visits = torch.tensor(
        [(each.mean, each.variance, float(each.visits)) for each in after], dtype=torch.float64
    ).T[:, :, None]
    by_group = _standardised(group_centred(rewards.double(), group_size).view_as(groups), variances[:, None])
    by_all = _standardised(groups - total_mean, total_variance)
    towards_group = ((visits - 1) * by_group + by_all) / visits
    towards_all = (by_group + (visits - 1) * by_all) / visits
    chosen = torch.where(towards_group.abs() < towards_all.abs(), towards_group, towards_all)
    return chosen.to(rewards.dtype).view(-1), after


def _standardised(centred: Tensor, variance: Tensor) -> Tensor:
    """In units of the deviation; 0 where there is none."""
    varies = variance > MIN_VARIANCE
    return torch.where(varies, centred * torch.where(varies, variance, 1.0).rsqrt(), 0.0)
