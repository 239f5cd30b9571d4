r"""Theory of the gradient weight of a query over its success probability p (PIPO, arXiv 2604.00860).

A query is answered right with probability p; G independent responses are drawn; the reward is 0 or 1.
Then every expected update of the query is a factor times the gradient of p, and methods differ in the
factor alone:

* group-relative advantages: :func:`group_scaling`, eta(p). It grows without bound at p -> 0 and p -> 1
  once only groups with both outcomes count;
* the policy-improvement reward: :func:`improvement_scaling`, phi / (2 p (1 - p)). With the query's *own*
  improvement, at most C min(p, 1 - p), it is bounded by C: damped at both ends.

The caveat: the practical progress xi is one number per batch and not the query's own improvement. Its factor
xi / (2 p (1 - p)) grows at the ends just as eta does, G / (2 sqrt(G - 1)) times as fast.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def group_scaling(
    p: ArrayLike, group_size: int, *, mixed_only: bool = True, sample_std: bool = False
) -> Floats:
    r"""eta(p), the factor of grad p in the expected group-relative update of one query.

    .. math:: \eta(p) = \frac{\sum_{c=1}^{G-1} \binom{G}{c} p^c (1-p)^{G-c} \sqrt{c (G-c)}}
                             {G \, p (1-p) \, (1 - p^G - (1-p)^G)}

    Args:
        p: success probabilities inside (0, 1), any shape.
        group_size: G, at least 2.
        mixed_only: count only groups with both outcomes, as dynamic sampling does. Without it, the last
            factor of the denominator is left out, and eta stays below sqrt(G - 1).
        sample_std: advantages by the standard deviation with G - 1 in its denominator, which is
            sqrt(G / (G - 1)) larger than the population's.

    Returns:
        float64 in the shape of ``p``.

    Raises:
        ValueError: a probability outside (0, 1), or a group of less than two.
    """
    probability = _probabilities(p)
    weights, c = _mixed_weights(probability, group_size)
    factor = (weights * np.sqrt(c * (group_size - c))).sum(axis=-1)
    factor /= group_size * probability * (1 - probability)
    if mixed_only:
        factor /= weights.sum(axis=-1)
    return factor * math.sqrt((group_size - 1) / group_size) if sample_std else factor


def mixed_probability(p: ArrayLike, group_size: int) -> Floats:
    """1 - p^G - (1 - p)^G, the chance that a group of G holds both outcomes; arguments as above."""
    return _mixed_weights(_probabilities(p), group_size)[0].sum(axis=-1)


def improvement_scaling(p: ArrayLike, feedback: ArrayLike) -> Floats:
    """The factor phi / (2 p (1 - p)) of grad p in the policy-improvement update of one query.

    It is exact for every group with both outcomes, whatever their number: the attribution +G / (2c) of c
    right and -G / (2(G - c)) of the wrong responses makes the sum over the group independent of c.

    Args:
        p: success probabilities inside (0, 1).
        feedback: phi of the improvement, the query's own or the batch's; broadcast against ``p``.

    Raises:
        ValueError: a probability outside (0, 1).
    """
    probability = _probabilities(p)
    return np.asarray(feedback, dtype=np.float64) / (2 * probability * (1 - probability))


def end_limit(group_size: int) -> float:
    """sqrt(G - 1) / G, the limit of p * eta(p) at 0 and of (1 - p) * eta(p) at 1."""
    return math.sqrt(group_size - 1) / group_size


def batch_progress_ratio(group_size: int) -> float:
    """G / (2 sqrt(G - 1)), the limit at both ends of improvement_scaling(p, 1) / group_scaling(p, G)."""
    return 1 / (2 * end_limit(group_size))


def _mixed_weights(p: Floats, group_size: int) -> tuple[Floats, Floats]:
    """Binomial probabilities of c = 1 .. G - 1 successes, [..., G - 1], and c itself."""
    if group_size < 2:
        raise ValueError(f"group_size must be >= 2, got {group_size}")
    c = np.arange(1, group_size, dtype=np.float64)
    log_choose = np.array([math.log(math.comb(group_size, int(k))) for k in c])
    # In logarithms, because the powers of a small p underflow long before their products do.
    logs = log_choose + c * np.log(p)[..., None] + (group_size - c) * np.log1p(-p)[..., None]
    return np.exp(logs), c


def _probabilities(p: ArrayLike) -> Floats:
    probability = np.asarray(p, dtype=np.float64)
    if not np.all((probability > 0) & (probability < 1)):
        raise ValueError("p must lie inside (0, 1)")
    return probability
