"""Policy-improvement feedback: is this batch better than the recent past? (PIPO, section 2)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Deviation = Literal["sample", "population"]

# Below this the history says nothing about noise; dividing by it would invent a signal.
MIN_HISTORY_STD = 1e-8


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What the history says about the newest mean reward."""

    history_mean: float
    """mu_his, mean of the window."""
    history_std: float
    """sigma_his, sample standard deviation of the window."""
    progress: float
    """xi = (mu - mu_his) / sigma_his, in standard deviations; nan when undefined."""
    coefficient: float
    """phi(xi) or what stands in its place, what multiplies the attribution; 0 when undefined."""
    defined: bool
    """False when there is no coefficient: the window does not vary, or what stands in is not known."""


def policy_improvement_feedback(
    mean_reward: float,
    history: Sequence[float],
    negative_scale: float,
    max_progress: float | None = None,
    *,
    deviation: Deviation = "sample",
) -> Feedback:
    """xi_t = (mu_t - mean) / std of the K means before it, and phi(xi) = xi or lambda * xi below zero.

    Args:
        mean_reward: mu_t, mean verifier reward over all responses of this iteration.
        history: the K means before this iteration; the current one is not among them.
        negative_scale: lambda, in [0, 1].
        max_progress: the coefficient follows xi up to +- this; None for no clamp.
        deviation: the sample's standard deviation, K - 1 in the denominator, as in the paper; or the
            population's, K, as in the authors' code, where one below 1e-8 counts as 1.

    Returns:
        The feedback; ``defined`` is False when the sample's deviation is below 1e-8.

    Raises:
        ValueError: when the history is shorter than 2 or the mean reward is not finite.
    """
    if len(history) < 2:
        raise ValueError(f"the history needs at least 2 values for a standard deviation, got {len(history)}")
    if not math.isfinite(mean_reward):
        raise ValueError(f"mean_reward must be finite, got {mean_reward}")
    window = torch.tensor(list(history), dtype=torch.float64)
    mean, std = window.mean().item(), window.std(correction=1 if deviation == "sample" else 0).item()
    if std < MIN_HISTORY_STD:
        if deviation == "sample":
            undefined = {"progress": math.nan, "coefficient": 0.0, "defined": False}
            return Feedback(history_mean=mean, history_std=std, **undefined)
        std = 1.0
    progress = (mean_reward - mean) / std
    return Feedback(
        history_mean=mean,
        history_std=std,
        progress=progress,
        coefficient=feedback_coefficient(progress, negative_scale, max_progress),
        defined=True,
    )


def feedback_coefficient(progress: float, negative_scale: float, max_progress: float | None) -> float:
    """phi(xi): xi itself, lambda * xi below zero, after bounding xi by +- ``max_progress``."""
    bounded = progress if max_progress is None else max(-max_progress, min(max_progress, progress))
    return bounded if bounded >= 0 else negative_scale * bounded


def without_feedback(feedback: Feedback, coefficient: float) -> Feedback:
    """A control: the retrospective update as often as with feedback, but always with the same coefficient."""
    return replace(feedback, coefficient=coefficient) if feedback.defined else feedback


def with_evidence(
    feedback: Feedback, evidence: float | None, negative_scale: float, max_progress: float | None
) -> Feedback:
    """Put phi of the measured improvement in standard errors in the place of phi(xi).

    Args:
        feedback: the published one; its ``progress`` is kept as it is.
        evidence: change of the mean reward over its standard error; None where it was not measured.
        negative_scale: lambda.
        max_progress: as for the published feedback.
    """
    if evidence is None:
        return replace(feedback, coefficient=0.0, defined=False)
    return replace(
        feedback, coefficient=feedback_coefficient(evidence, negative_scale, max_progress), defined=True
    )


def with_random_sign(
    feedback: Feedback, negative_scale: float, max_progress: float | None, seed: int
) -> Feedback:
    """A control: phi(+|xi|) or phi(-|xi|) by the toss of a coin, so that only the direction is uninformed.

    Args:
        feedback: the real one; its ``progress`` is kept as measured.
        negative_scale: lambda.
        max_progress: as for the real feedback.
        seed: of the coin; must be the same on every rank.
    """
    if not feedback.defined:
        return feedback
    sign = 1 if random.Random(seed).random() < 0.5 else -1
    drawn = feedback_coefficient(sign * abs(feedback.progress), negative_scale, max_progress)
    return replace(feedback, coefficient=drawn)


def policy_improvement_reward(attribution: Tensor, coefficient: float) -> Tensor:
    """r_hat = s * phi(xi): the advantages of the retrospective update, same shape as ``attribution``."""
    return attribution * coefficient
