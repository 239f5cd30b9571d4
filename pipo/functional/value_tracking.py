"""A running estimate of a prompt's success rate that forgets as the policy moves (SPO's value tracker)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Belief:
    """Successes and failures at one prompt, older ones discounted: a Beta distribution of its success."""

    successes: float
    """alpha, weighted number of successes, the prior's included."""
    failures: float
    """beta, likewise."""

    @property
    def value(self) -> float:
        """Expected success rate, in [0, 1]."""
        return self.successes / (self.successes + self.failures)

    def after(self, keep: float, successes: float, responses: int) -> Belief:
        """With the rewards of fresh responses (arXiv 2509.13232, equation 5).

        alpha = rho alpha + sum of r, beta = rho beta + sum of (1 - r). A reward between 0 and 1 counts as so
        much of a success.

        Args:
            keep: rho, what is left of the earlier ones.
            successes: sum of the rewards.
            responses: number of them.
        """
        return Belief(
            successes=keep * self.successes + successes,
            failures=keep * self.failures + responses - successes,
        )


def forgetting(distance: Tensor, half: float, least: float, most: float) -> Tensor:
    """Rho = 2^(-D / half), within ``least`` and ``most``: what is left of earlier observations.

    Section 4.1 of arXiv 2509.13232, where D is the KL divergence of the present policy from the one that
    answered the prompt last.

    Args:
        distance: [B], D in nats.
        half: D at which half is forgotten.
        least: bound of rho below.
        most: bound of rho above.

    Returns:
        [B].
    """
    return torch.exp2(-distance / half).clamp(least, most)


def mean_change(logprobs: Tensor, earlier: Tensor, mask: Tensor) -> Tensor:
    """Mean of |log pi - log pi_earlier| over the sampled tokens of each response, [n].

    What SPO's released code takes for D.

    Args:
        logprobs: [n, R], of the present policy.
        earlier: [n, R], of the one that sampled.
        mask: bool [n, R], the sampled tokens.
    """
    change = torch.where(mask, (logprobs - earlier).abs(), torch.zeros_like(logprobs))
    return change.sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def sampling_weights(values: Tensor, exploration: float) -> Tensor:
    """sqrt(v (1 - v)) + epsilon, what a prompt's chance to be drawn is proportional to (equation 11).

    Args:
        values: expected success rates, in [0, 1].
        exploration: epsilon, so that none is left out for good.
    """
    return (values * (1 - values)).clamp(min=0.0).sqrt() + exploration
