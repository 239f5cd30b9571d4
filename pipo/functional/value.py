"""Critic's clipped value loss and explained variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipo.functional.advantages import variance

# Single precision leaves a variance of about this where all returns are equal.
MIN_SPREAD = 1e-12


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """0.5 * max((V - R)^2, (V_clip - R)^2) per token, V_clip within +- clip of the old prediction.

    The larger of the two squares: once a prediction has moved past the trust region towards its return,
    the clipped square is the larger one and the gradient is zero. (PPO with a clipped critic,
    arXiv 1707.06347 as implemented by its authors.)

    Args:
        values: [n, R], carries the gradient.
        old_values: [n, R], the critic's predictions when the batch was sampled.
        returns: [n, R], targets.
        clip: half-width of the trust region, in units of reward, > 0.

    Returns:
        [n, R]; the caller aggregates with its global denominator.

    Raises:
        ValueError: when ``clip`` is not positive.
    """
    if not clip > 0:
        raise ValueError(f"value_clip must be positive, got {clip}")
    near = torch.clamp(values, old_values - clip, old_values + clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


def explained_variance(returns: Tensor, errors: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the sampled tokens of all ranks.

    1 is a perfect critic, 0 one that is no better than the mean return, below 0 a harmful one.

    Args:
        returns: summed :func:`~pipo.functional.advantages.moments` of the returns.
        errors: summed moments of the returns minus the values.

    Returns:
        The share, at most 1; nan when the returns do not vary by more than rounding.

    Raises:
        ValueError: when the moments cover fewer than 2 tokens.
    """
    spread = variance(returns).item()
    if spread < MIN_SPREAD:
        return math.nan
    return 1.0 - variance(errors).item() / spread
