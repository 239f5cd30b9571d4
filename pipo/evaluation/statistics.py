"""pass@k, bootstrap and Wilson intervals, sign-flip test, Holm's correction: of numbers per problem.

The problem is the unit of everything here. A metric is the mean over problems of one number per problem, and
its interval comes from resampling problems: responses to one problem are not independent of each other, so
resampling responses would give intervals that are too narrow.

``scipy.stats`` has a bootstrap, Wilson's interval and a permutation test. They draw and count the same, and
tests hold these to its numbers. These stay because scipy's bootstrap refuses a single problem, its Wilson
interval differs in the last digits from what runs have logged, its permutation test takes 6 to 50 times as
long, and where SciPy is installed every start takes longer (:mod:`pipo.functional.students_t`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_DRAWS_AT_ONCE = 1 << 22
"""Indices that the bootstrap holds in memory at a time (32 MiB)."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean over problems with its bootstrap interval."""

    value: float
    """Mean over problems."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


def pass_at_k(samples: ArrayLike, solved: ArrayLike, k: int) -> Floats:
    """Unbiased probability that at least one of k responses solves the problem.

    1 - C(n - c, k) / C(n, k) for each problem, as a product of k ratios, which neither overflows nor
    cancels. With k = 1 it is c / n.

    Args:
        samples: n, responses graded per problem.
        solved: c, how many of them solve it.
        k: size of the subset, at most the smallest n.

    Returns:
        float64, one value per problem.

    Raises:
        ValueError: when k is below 1 or above n, or c lies outside [0, n].
    """
    n = np.asarray(samples, dtype=np.int64)
    c = np.asarray(solved, dtype=np.int64)
    if n.shape != c.shape:
        raise ValueError(f"pass@k: {n.shape} sample counts for {c.shape} solved counts")
    if k < 1:
        raise ValueError(f"pass@k: k must be >= 1, got {k}")
    if np.any(n < k):
        raise ValueError(f"pass@{k} needs at least {k} samples per problem, got {n.min()}")
    if np.any((c < 0) | (c > n)):
        raise ValueError("pass@k: the number of solved samples must lie in [0, number of samples]")
    none_solved = np.ones(n.shape)
    for drawn in range(k):
        none_solved *= np.maximum(n - c - drawn, 0) / (n - drawn)
    return 1.0 - none_solved


def mean_at_n(scores: ArrayLike) -> Floats:
    """Mean score of each problem's n responses.

    Args:
        scores: [problems, n].

    Returns:
        float64 [problems].

    Raises:
        ValueError: when ``scores`` is not two-dimensional or a problem has no responses.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"mean@n: expected [problems, n >= 1] scores, got shape {array.shape}")
    return array.mean(axis=1)


def bootstrap_means(values: ArrayLike, resamples: int, seed: int | Sequence[int]) -> Floats:
    """Means of resampled problems: as many as there are, drawn with replacement, ``resamples`` times.

    Args:
        values: one number per problem.
        resamples: number of resampled means.
        seed: the same seed draws the same problems.

    Raises:
        ValueError: when there are no problems or no resamples.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"bootstrap: expected one value per problem, got shape {array.shape}")
    if resamples < 1:
        raise ValueError(f"bootstrap: resamples must be >= 1, got {resamples}")
    problems = len(array)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(1, _DRAWS_AT_ONCE // problems)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(problems, size=(rows, problems))
        means[start : start + rows] = array[drawn].mean(axis=1)
    return means


def percentile_interval(means: Floats, confidence: float) -> tuple[float, float]:
    """The two percentiles of resampled means that leave out (1 - confidence) / 2 on each side.

    Raises:
        ValueError: when the confidence lies outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"bootstrap: confidence must lie in (0, 1), got {confidence}")
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_interval(
    values: ArrayLike, confidence: float, resamples: int, seed: int | Sequence[int]
) -> tuple[float, float]:
    """Percentile-bootstrap interval of the mean over problems.

    The interval says how much the value would move with *other problems of the same kind*. With one problem
    there is nothing to resample and its width is zero, and so it is when all problems have the same value;
    neither means certainty.

    Args:
        values: one number per problem.
        confidence: share of resampled means inside the interval, in (0, 1).
        resamples: number of resampled means; 1000 or more for stable ends.
        seed: the same seed gives the same interval.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: when there are no problems or an argument is out of range.
    """
    return percentile_interval(bootstrap_means(values, resamples, seed), confidence)


def wilson_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, 1927), which keeps its coverage near 0 and 1.

    Raises:
        ValueError: no trials, more successes than trials, or a confidence outside (0, 1).
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"wilson: {successes} successes in {trials} trials")
    if not 0 < confidence < 1:
        raise ValueError(f"wilson: confidence must lie in (0, 1), got {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    # On paper the two are equal at the ends; rounding would leave a bound of 3e-17.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == trials else min(1.0, centre + half)


def estimate(values: ArrayLike, confidence: float, resamples: int, seed: int, *, share: bool) -> Estimate:
    """The mean over problems with its interval.

    Args:
        values: one number per problem.
        confidence: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        share: whether the values lie in [0, 1]. If each of them is 0 or 1, as with one response per problem,
            their mean is a proportion and the interval is :func:`wilson_interval`: the bootstrap's would be
            far too narrow near 0 and 1, and of no width at them. Else it is :func:`bootstrap_interval`.
    """
    array = np.asarray(values, dtype=np.float64)
    if share and len(array) and np.isin(array, (0.0, 1.0)).all():
        low, high = wilson_interval(int(array.sum()), len(array), confidence)
    else:
        low, high = bootstrap_interval(array, confidence, resamples, seed)
    return Estimate(value=float(array.mean()), low=low, high=high)


def sign_flip_p(contributions: ArrayLike, draws: int, seed: int) -> float:
    """Two-sided p-value of a paired randomisation test.

    If two models are equally good at every problem, the difference at each is as likely the other way round.
    The value is the share of all ways to flip the signs for which the sum is at least as far from 0 as the
    sum that was found. Problems without a difference have no say. All ways are counted when there are at most
    ``draws`` of them; otherwise ``draws`` are drawn, and the one that was found counts among them, so that
    the value is never 0.

    Args:
        contributions: what each problem adds to the difference.
        draws: largest number of sign patterns.
        seed: of the drawn patterns.
    """
    array = np.asarray(contributions, dtype=np.float64)
    array = array[array != 0]
    scale = np.abs(array).sum()
    # Sums that are equal on paper may differ in the last digits.
    found = np.abs(array.sum()) - 1e-9 * scale
    if 2 ** len(array) <= draws:
        patterns = np.arange(2 ** len(array))[:, None] >> np.arange(len(array)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ array) >= found))
    generator = np.random.default_rng(seed)
    hits, chunk = 0, max(1, _DRAWS_AT_ONCE // len(array))
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        signs = 2.0 * generator.integers(2, size=(rows, len(array)), dtype=np.int8) - 1
        hits += int(np.sum(np.abs(signs @ array) >= found))
    return (hits + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method, in the order given.

    Those below a level are significant together: the chance of even one false alarm among them stays below
    that level, whatever the dependence between the tests.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted
