"""Probability that the sign of PIPO's feedback is right, from a reward curve and the noise of its points.

The model. mu_t = J_t + e_t: the mean reward of iteration t is the policy's expected reward plus noise from
the draw of prompts and responses. The e_t are independent with one variance s^2; J is smooth, near enough to
a straight line over some neighbourhood of t. The feedback's sign is that of

    D_t = mu_t - mean(mu_{t-K} .. mu_{t-1}) = W_t + noise,   W_t = J_t - mean(J_{t-K} .. J_{t-1})

The noise of D_t has variance s^2 + s^2/K, so its standard deviation is tau = s sqrt(1 + 1/K); a mean over
many prompts is nearly normal. Dividing by the window's standard deviation to get xi does not change a sign.
So, with Phi the normal distribution function,

    P(sign xi_t = sign of W_t)             = Phi(|W_t| / tau)                        against the window
    P(sign xi_t = sign of J_t - J_{t-1})   = Phi(sign(J_t - J_{t-1}) W_t / tau)      the last change

On a straight line of slope d, W_t = d (K + 1) / 2 and the two agree. They part where the curve turns: W_t
keeps the old sign for about 0.3 K iterations. The figures here are means over the iterations with a feedback.
f times as many prompts make s^2 f times smaller; the f at which a mean over iterations reaches 0.9 is solved
for. It is assumed that more prompts change nothing else.

J is estimated by smoothing (``pipo.analysis.feedback.smoothing``). The stiffness is chosen from the data,
between curves that bend within 2K + 1 iterations and a straight line. Nothing looser is tried: a slope from
few points is mostly noise, and noise taken for a slope makes the feedback look good. Turns within fewer than
some 4K iterations are flattened by this, and the feedback then looks a little worse than it is.

s^2 is measured where rewards per prompt are known: variance of the prompts' means / their number, averaged
over iterations. Otherwise it is bounded by the curve: mean of (mu_{t-1} - 2 mu_t + mu_{t+1})^2 / 6, which is
s^2 on average if J is locally linear, and more if J itself goes up and down from one iteration to the next
(by q^2 / 3 if it does a random walk of variance q^2 a step).

Intervals resample the residuals in blocks of K consecutive iterations, smooth each new curve in the same way,
and measure the noise anew. Prompts are not resampled on top: every iteration has its own, so that the
iterations differ by what their prompts do. The *direction* of each change stays as estimated, and an interval
that reaches below one half says that the curve does not show the direction. What smoothing does to sharp
turns is not in the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipo.analysis.feedback.curve import Curve
from pipo.analysis.feedback.smoothing import choose_stiffness, leverages, smooth
from pipo.errors import ConfigError
from pipo.evaluation.over_seeds import CONFIDENCE
from pipo.evaluation.statistics import Estimate, Floats

GOAL = 0.9
"""Share of right signs that prompts are counted for."""

# As ``pipo.functional.policy_improvement`` has it, which needs torch.
MIN_HISTORY_STD = 1e-8

RESAMPLES = 500

# Factors on the number of prompts between which the goal is looked for, as powers of two; halvings of that.
_POWERS, _HALVINGS = (-20.0, 40.0), 20

# Numbers held in one array.
_AT_ONCE = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Question:
    """How often the feedback's sign answers one question about the policy."""

    probability: Estimate
    """Of the right sign, a mean over iterations."""
    rises: float
    """Share of iterations in which the estimated change is one for the better: what "always better" gets."""
    factor: Estimate
    """Prompts needed for :data:`GOAL`, as a multiple of those there are; inf where no number does it."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a reward curve says about the feedback."""

    progress: Floats
    """[iterations], xi; nan where it is not defined."""
    defined: int
    """Iterations with a feedback."""
    negative: float
    """Share of them with xi < 0."""
    negative_expected: float
    """The same share, by the model."""
    coefficient: float
    """Mean of phi(xi) over them."""
    level: Floats
    """[iterations], J as estimated."""
    stiffness: float
    """Of the estimate, see ``pipo.analysis.feedback.smoothing``."""
    noise: float
    """s, in units of the reward."""
    measured: bool
    """True: s from the spread of prompts. False: bounded by the curve."""
    curve_noise: float
    """The bound on s from the curve, for comparison."""
    trend: Estimate
    """Change of J per iteration, averaged over the run."""
    neighbours: float
    """Correlation of neighbouring residuals; 0 when noise is independent."""
    signal: Floats
    """[iterations with a feedback], W_t / tau."""
    last: Question
    """The change over the last iteration."""
    against_window: Question
    """The change against the mean of the window."""


def progress(means: Floats, window: int) -> Floats:
    """xi_t = (mu_t - mean) / sample std of the ``window`` means before it; nan where it is not defined."""
    result = np.full(len(means), np.nan)
    before = sliding_window_view(means, window)[:-1]
    spread = before.std(axis=1, ddof=1)
    known = spread >= MIN_HISTORY_STD
    result[window:][known] = (means[window:] - before.mean(axis=1))[known] / spread[known]
    return result


def coefficient(xi: Floats, negative_scale: float) -> Floats:
    """phi(xi): xi itself, lambda * xi below zero."""
    return np.where(xi >= 0, xi, negative_scale * xi)


def curve_variance(means: Floats) -> Floats:
    """Bound on s^2 from second differences: mean of (mu_{t-1} - 2 mu_t + mu_{t+1})^2 / 6, of [..., T]."""
    return (np.diff(means, n=2, axis=-1) ** 2).mean(axis=-1) / 6


def changes(level: Floats, window: int) -> tuple[Floats, Floats]:
    """J_t - J_{t-1} and W_t, of [..., T] for the T - K iterations with a full window."""
    running = np.cumsum(np.concatenate([np.zeros_like(level[..., :1]), level], axis=-1), axis=-1)
    before = (running[..., window:-1] - running[..., : -window - 1]) / window
    return np.diff(level, axis=-1)[..., window - 1 :], level[..., window:] - before


def study(curve: Curve, window: int, negative_scale: float, seed: int = 0) -> Findings:
    """Everything about one curve.

    Args:
        curve: long enough for the window, and not constant.
        window: K.
        negative_scale: lambda.
        seed: of the resampling.

    Raises:
        ConfigError: when the feedback is defined nowhere.
    """
    means = curve.means
    xi = progress(means, window)
    found = xi[np.isfinite(xi)]
    if not found.size:
        raise ConfigError(f"{curve.name}: no window of {window} iterations varies, so no feedback is defined")
    stiffness = choose_stiffness(means, window)
    level, leverage = smooth(means, stiffness), leverages(len(means), stiffness)
    residuals = (means - level) / np.sqrt(1 - leverage)
    variance = float(curve_variance(means) if curve.variances is None else np.nanmean(curve.variances))
    last, against = changes(level, window)
    signal = _in_deviations(against, np.array(variance), window)
    signs = np.sign(last), np.sign(against)
    draws = _resample(curve, window, stiffness, level, residuals - residuals.mean(), signs, seed)
    trend = (level[-1] - level[0]) / (len(level) - 1)
    return Findings(
        progress=xi,
        defined=len(found),
        negative=float((found < 0).mean()),
        negative_expected=float(_normal_below(-signal).mean()),
        coefficient=float(coefficient(found, negative_scale).mean()),
        level=level,
        stiffness=stiffness,
        noise=float(np.sqrt(variance)),
        measured=curve.variances is not None,
        curve_noise=float(np.sqrt(curve_variance(means))),
        trend=_estimate(float(trend), draws[:, 0]),
        neighbours=_neighbours(residuals),
        signal=signal,
        last=_question(signs[0], signal, draws[:, 1:4]),
        against_window=_question(signs[1], signal, draws[:, 4:7]),
    )


def share_right(signs: Floats, signal: Floats, factor: float | Floats = 1.0) -> Floats:
    """Mean over iterations of Phi(sign * W_t / tau), [..., T], with ``factor`` [...] times the prompts."""
    return _normal_below(signs * signal * np.sqrt(np.asarray(factor))[..., None]).mean(axis=-1)


def _normal_below(values: Floats) -> Floats:
    """The standard normal distribution function."""
    import torch  # here, so that what is wrong with a file is said at once

    return torch.special.ndtr(torch.from_numpy(values)).numpy()


def prompts_factor(signs: Floats, signal: Floats) -> Floats:
    """The factor on the number of prompts with which :func:`share_right` is :data:`GOAL`; [..., T] to [...].

    inf where the share of iterations in which W_t has the sign at all is below the goal.
    """
    low = np.full(signal.shape[:-1], _POWERS[0])
    high = np.full_like(low, _POWERS[1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = share_right(signs, signal, 2.0**middle) >= GOAL
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    reached = share_right(signs, signal, np.full_like(high, 2.0 ** _POWERS[1])) >= GOAL
    return np.where(reached, 2.0**high, np.inf)


def _in_deviations(against: Floats, variance: Floats, window: int) -> Floats:
    """W_t / tau; without noise every sign is certain."""
    deviation = np.sqrt(variance * (1 + 1 / window))[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(against / deviation, nan=0.0, posinf=np.inf, neginf=-np.inf)


def _resample(
    curve: Curve,
    window: int,
    stiffness: float,
    level: Floats,
    residuals: Floats,
    signs: tuple[Floats, Floats],
    seed: int,
) -> Floats:
    """[resamples, 7]: trend; probability and two factors for the last change, and for the window.

    The first factor is for the directions of the resample itself, the second for those estimated.
    """
    generator = np.random.default_rng(seed)
    count, parts = len(level), []
    chunk = max(1, _AT_ONCE // count)
    for start in range(0, RESAMPLES, chunk):
        rows = _blocks(generator, min(chunk, RESAMPLES - start), count, window)
        means = level + residuals[rows]
        if curve.variances is None:
            variance = curve_variance(means)
        else:
            variance = np.nanmean(curve.variances[rows], axis=-1)
        again = smooth(means.T, stiffness).T
        last, against = changes(again, window)
        signal = _in_deviations(against, variance, window)
        columns = [(again[:, -1] - again[:, 0]) / (count - 1)]
        for own, each in zip((last, against), signs, strict=True):
            factors = prompts_factor(np.sign(own), signal), prompts_factor(each, signal)
            columns += [share_right(each, signal), *factors]
        parts.append(np.stack(columns, axis=1))
    return np.concatenate(parts)


def _blocks(generator: np.random.Generator, resamples: int, count: int, block: int) -> NDArray[np.int64]:
    """[resamples, count] iterations in blocks that wrap around, with replacement."""
    starts = generator.integers(count, size=(resamples, -(-count // block)))
    return (starts[..., None] + np.arange(block)).reshape(resamples, -1)[:, :count] % count


def _question(signs: Floats, signal: Floats, draws: Floats) -> Question:
    """The lower end of the factor trusts each resample's directions, the upper those of the estimate.

    Where a run is flat, resamples go either way: taking each at its word would promise an end that is not
    there, and holding it to the estimate would never reach the goal.
    """
    factor = float(prompts_factor(signs, signal))
    return Question(
        probability=_estimate(float(share_right(signs, signal)), draws[:, 0]),
        rises=float((signs > 0).mean()),
        factor=Estimate(
            value=factor,
            low=_estimate(factor, draws[:, 1]).low,
            high=_estimate(factor, draws[:, 2]).high,
        ),
    )


def _estimate(value: float, draws: Floats) -> Estimate:
    """Percentile interval of values that may be inf, which cannot be interpolated."""
    tail = (1 - CONFIDENCE) / 2
    low = np.quantile(draws, tail, method="lower")
    high = np.quantile(draws, 1 - tail, method="higher")
    return Estimate(value=value, low=float(low), high=float(high))


def _neighbours(residuals: Floats) -> float:
    total = float((residuals**2).sum())
    return float((residuals[1:] * residuals[:-1]).sum()) / total if total > 0 else 0.0
