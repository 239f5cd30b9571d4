"""Sign agreement and correlation of the progress with the realised change: pure functions of a run's probe.

The method assumes phi(xi_t) * dJ_t >= 0: the progress, which is computed from different prompts every
iteration, has the sign of the change that the last update really made. The probe measures that change on
the same prompts every time, and it is noisy too. So the interval here resamples both what differs between
iterations and what differs between the probe's prompts.

Equal signs alone say little: where nearly every change is positive, their share is nearly the share of
positive progress. So the share is set against the one that signs without any relation would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipo.evaluation.statistics import Estimate, Floats

# Fewer comparable iterations say nothing.
_AT_LEAST = 3


class TooFewIterations(ValueError):
    """A run is too short for its progress and its probe to be compared."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the progress and the realised change go together."""

    sign: Estimate
    """Share of comparable iterations with equal signs."""
    expected: float
    """p q + (1 - p)(1 - q): the share of equal signs if the two had nothing to do with each other."""
    excess: Estimate
    """``sign`` minus ``expected``, 0 without a relation; ``expected`` is formed anew in every resample."""
    positive_progress: float
    """p, the share of positive progress."""
    positive_change: float
    """q, the share of positive changes."""
    correlation: Estimate
    """Pearson's correlation of progress and realised change; ties count here."""
    reliability: float
    """Share of the measured change's variance that is not the probe's own noise, at most 1. Noise in the
    change makes ``correlation`` smaller by about the square root of it; near 0 the probe is too small to say
    anything.
    """
    iterations: int
    """Comparable iterations: progress and change defined and not zero."""
    ties: int
    """Iterations left out of them because one of the two is exactly zero."""

    @property
    def one_sided(self) -> bool:
        """Whether progress or change has one sign only, so that the signs cannot say anything."""
        return {self.positive_progress, self.positive_change} & {0.0, 1.0} != set()


def probe_arrays(
    rows: Sequence[Mapping[str, Any]], signal: Literal["progress", "evidence"] = "progress"
) -> tuple[Floats, Floats]:
    """A signal [iterations], nan where undefined, and rewards [iterations, prompts] of a probe's rows."""
    values = [np.nan if row[signal] is None else row[signal] for row in rows]
    return np.array(values, dtype=np.float64), np.array([row["rewards"] for row in rows])


def clear_changes(rewards: ArrayLike, errors: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Realised change over the last iteration, and where it exceeds so many standard errors over prompts.

    Args:
        rewards: [iterations, prompts], see :func:`realised_change`.
        errors: standard errors.

    Returns:
        [iterations] each; the first change is nan, and not clear.
    """
    change = realised_change(rewards)
    noise = change.std(axis=1, ddof=1) / np.sqrt(change.shape[1])
    middle = change.mean(axis=1)
    return middle, np.abs(middle) > errors * noise


def where_it_can_tell(signal: ArrayLike, rewards: ArrayLike, errors: float) -> tuple[int, int]:
    """Iterations whose realised change is clear of the probe's own noise, and in how many the sign is right.

    Args:
        signal: [iterations], xi or the evidence; nan where it is not defined.
        rewards: [iterations, prompts], see :func:`realised_change`.
        errors: standard errors over prompts that a change must exceed.

    Returns:
        Iterations with the right sign, and all that are clear.
    """
    said = np.asarray(signal, dtype=np.float64)
    change, clear = clear_changes(rewards, errors)
    clear &= np.isfinite(said)
    right = np.sign(said[clear]) == np.sign(change[clear])
    return int(right.sum()), int(clear.sum())


def realised_change(rewards: ArrayLike, window: int = 1) -> Floats:
    """J(theta_t) minus the mean of J over the ``window`` iterations before.

    Args:
        rewards: [iterations, prompts], mean reward of each probe prompt under the weights that sampled the
            iteration.
        window: 1 for the effect of the last iteration's updates.

    Returns:
        [iterations, prompts]; nan in the first ``window`` rows.
    """
    table = _table(rewards)
    if not 1 <= window < len(table):
        raise ValueError(f"window must lie in 1..{len(table) - 1}, got {window}")
    sums = np.cumsum(np.vstack([np.zeros_like(table[:1]), table]), axis=0)
    change = np.full_like(table, np.nan)
    change[window:] = table[window:] - (sums[window:-1] - sums[: -window - 1]) / window
    return change


def agreement(
    progress: ArrayLike,
    rewards: ArrayLike,
    *,
    window: int,
    block: int,
    confidence: float,
    resamples: int,
    seed: int,
) -> Agreement:
    """Sign agreement and correlation with bootstrap intervals.

    Every resample draws prompts with replacement and, because neighbouring changes share a measurement and
    neighbouring progress shares its window, blocks of consecutive iterations with replacement.

    Args:
        progress: [iterations], xi; nan where it is not defined.
        rewards: [iterations, prompts], see :func:`realised_change`.
        window: what the change is measured against; 1 is the last iteration.
        block: iterations drawn together; a shorter run is one block.
        confidence: of the intervals.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        TooFewIterations: when fewer than three iterations are comparable.
    """
    xi = np.asarray(progress, dtype=np.float64)
    change = realised_change(rewards, window)
    if xi.shape != change.shape[:1]:
        raise ValueError(f"{xi.shape} progress values for {change.shape[0]} iterations")
    known = np.flatnonzero(np.isfinite(xi) & np.isfinite(change[:, 0]))
    xi, change = xi[known], change[known]
    use = _comparable(xi, change.mean(axis=1))
    comparable = int(use.sum())
    if comparable < _AT_LEAST:
        raise TooFewIterations(
            f"only {comparable} iterations have a progress and a change that are not zero; "
            f"at least {_AT_LEAST} are needed"
        )
    sign, excess, correlation = _measure(xi, change.mean(axis=1))
    generator = np.random.default_rng(seed)
    draws = np.array(
        [
            _measure(xi[rows], change[rows][:, columns].mean(axis=1))
            for rows, columns in _resamples(generator, change.shape, min(block, len(xi)), resamples)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    found = [
        Estimate(value=value, low=float(low[n]), high=float(high[n]))
        for n, value in enumerate((sign, excess, correlation))
    ]
    return Agreement(
        sign=found[0],
        expected=sign - excess,
        excess=found[1],
        positive_progress=float((xi[use] > 0).mean()),
        positive_change=float((change.mean(axis=1)[use] > 0).mean()),
        correlation=found[2],
        reliability=_reliability(change),
        iterations=comparable,
        ties=len(use) - comparable,
    )


def _comparable(xi: Floats, change: Floats) -> NDArray[np.bool_]:
    return (xi != 0) & (change != 0)


def _measure(xi: Floats, change: Floats) -> tuple[float, float, float]:
    """Share of equal signs, what it is above chance, correlation; nan where a resample leaves nothing."""
    use = _comparable(xi, change)
    sign = excess = correlation = np.nan
    if use.any():
        better, up = xi[use] > 0, change[use] > 0
        sign, p, q = float((better == up).mean()), float(better.mean()), float(up.mean())
        excess = sign - (p * q + (1 - p) * (1 - q))
    if xi.std() > 0 and change.std() > 0:
        correlation = float(np.corrcoef(xi, change)[0, 1])
    return sign, excess, correlation


def _reliability(change: Floats) -> float:
    """1 - noise / variance: the noise of a mean over prompts is their variance over their number."""
    if change.shape[1] < 2:
        return 0.0
    noise = float((change.var(axis=1, ddof=1) / change.shape[1]).mean())
    total = float(change.mean(axis=1).var(ddof=1))
    return 1 - noise / total if total > 0 else 0.0


def _resamples(
    generator: np.random.Generator, shape: tuple[int, ...], block: int, count: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows in blocks that wrap around, and columns, with replacement."""
    iterations, prompts = shape
    blocks = -(-iterations // block)
    chosen = []
    for _ in range(count):
        starts = generator.integers(iterations, size=blocks)
        rows = (starts[:, None] + np.arange(block)).reshape(-1)[:iterations] % iterations
        chosen.append((rows, generator.integers(prompts, size=prompts)))
    return chosen


def _table(rewards: ArrayLike) -> Floats:
    table = np.asarray(rewards, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"rewards: expected [iterations, prompts], got shape {table.shape}")
    return table
