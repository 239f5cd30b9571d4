"""Whittaker smoothing of a reward curve, with a stiffness chosen by Schwarz's criterion."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipo.evaluation.statistics import Floats

# A curve of stiffness (_STIFF * n)^4 follows a slope as closely as straight lines through n points each do:
# the variance of its slope is 12 s^2 / n^3, too. Spans are tried in these steps up to the run, and a line.
_STIFF, _FINER = 0.195, 2**0.5
# Lengths and stiffnesses whose factors are kept: runs that are looked at together mostly have the same ones.
_KEPT = 64


def smooth(values: Floats, stiffness: float) -> Floats:
    """The curve J that minimises sum (mu_t - J_t)^2 + stiffness * sum (J_{t-1} - 2 J_t + J_{t+1})^2.

    Whittaker (1923). A straight line costs nothing, and with infinite stiffness it is all that is left.

    Args:
        values: [iterations, ...]; curves side by side.
        stiffness: of the curve, > 0; inf for the line of least squares.
    """
    count = len(values)
    at = np.arange(count) - (count - 1) / 2
    slope = np.tensordot(at, values, axes=1) / (at @ at)
    straight = values.mean(axis=0) + np.multiply.outer(at, slope)
    if np.isinf(stiffness):
        return straight
    # The line apart, because rounding grows with the stiffness and with what is smoothed.
    return straight + _solved(*_factors(count, stiffness), values - straight)


@lru_cache(maxsize=_KEPT)
def leverages(count: int, stiffness: float) -> Floats:
    """[iterations], not to be changed: the weight that each point has in the smooth curve at its own place.

    The diagonal of the inverse of :func:`smooth`'s matrix, by the recursion of Hutchinson and de Hoog (1985)
    from its factors: linear in the number of iterations.
    """
    at = np.arange(count) - (count - 1) / 2
    if np.isinf(stiffness):
        return 1 / count + at**2 / (at @ at)
    diagonal, first, second = (each.tolist() for each in _factors(count, stiffness))
    # Rows of the inverse near its diagonal, from the last upwards: [i, i], [i, i + 1]; and [i + 2, i + 2].
    found, here, beside, after = [0.0] * count, 0.0, 0.0, 0.0
    for i in range(count - 1, -1, -1):
        beyond = -first[i] * beside - second[i] * after
        beside, after = -first[i] * here - second[i] * beside, here
        here = found[i] = 1 / diagonal[i] - first[i] * beside - second[i] * beyond
    return np.array(found)


def _bands(count: int, stiffness: float) -> Floats:
    """Diagonal and two subdiagonals of I + stiffness D'D, where D takes second differences."""
    bands = np.zeros((3, count))
    difference = (1.0, -2.0, 1.0)
    for n in range(3):
        for m in range(n, 3):
            bands[m - n, n : count - 2 + n] += stiffness * difference[n] * difference[m]
    bands[0] += 1
    return bands


@lru_cache(maxsize=_KEPT)
def _factors(count: int, stiffness: float) -> tuple[Floats, Floats, Floats]:
    """The matrix as L D L': diagonal of D, and the two subdiagonals of L, of which the diagonal is 1."""
    bands = _bands(count, stiffness).tolist()
    diagonal, first, second = ([0.0] * count for _ in range(3))
    for i in range(count):
        # Of the two rows above; those of the first two rows are 0, which the lists' ends still are.
        one, two = first[i - 1] * diagonal[i - 1], second[i - 2] * diagonal[i - 2]
        diagonal[i] = bands[0][i] - first[i - 1] * one - second[i - 2] * two
        first[i] = (bands[1][i] - second[i - 1] * one) / diagonal[i]
        second[i] = bands[2][i] / diagonal[i]
    return np.array(diagonal), np.array(first), np.array(second)


def _solved(diagonal: Floats, first: Floats, second: Floats, values: Floats) -> Floats:
    """Forwards through L, then backwards through D L'; values are [iterations, ...]."""
    count = len(values)
    # Two rows of 0 behind the last: what comes before the first and after the last.
    found = np.concatenate([values, np.zeros_like(values[:2])])
    for i in range(count):
        found[i] -= first[i - 1] * found[i - 1] + second[i - 2] * found[i - 2]
    for i in range(count - 1, -1, -1):
        found[i] = found[i] / diagonal[i] - first[i] * found[i + 1] - second[i] * found[i + 2]
    return found[:count]


def choose_stiffness(means: Floats, window: int) -> float:
    """The stiffness of :func:`smooth` with the smallest Schwarz criterion (Schwarz, 1978).

    log(mean squared residual) + log(T) * parameters / T, where the sum of the leverages stands for the
    parameters. Cross-validation, which asks less of a loose curve, takes noise for bends so often that a flat
    run of 100 iterations seems to have a trend.
    """
    count = len(means)
    steps = max(0, int(np.log(count / (2 * window + 1)) / np.log(_FINER)))
    spans = (2 * window + 1) * _FINER ** np.arange(steps + 1)
    stiffnesses = [*((_STIFF * spans) ** 4).tolist(), np.inf]
    scores = []
    for stiffness in stiffnesses:
        parameters = leverages(count, stiffness).sum()
        with np.errstate(divide="ignore"):  # an exact line has no residuals
            fit = np.log(((means - smooth(means, stiffness)) ** 2).mean())
        scores.append(fit + np.log(count) * parameters / count)
    return stiffnesses[int(np.argmin(scores))]
