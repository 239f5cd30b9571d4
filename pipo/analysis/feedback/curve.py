"""Reward curve of one RL run: mean reward of every iteration, and its noise where that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipo.errors import ConfigError
from pipo.evaluation.statistics import Floats

# The run goes on beyond its first window for long enough that a spread can be estimated.
BEYOND_WINDOW = 8

# Of notes about iterations that were left out: more are counted, not named.
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a run's files say about its rewards."""

    name: str
    """Of the run, for the table and the figure."""
    source: str
    """What was read, in words."""
    steps: NDArray[np.int64]
    """[iterations], rising: the numbers that the run gave them."""
    means: Floats
    """[iterations], mu: mean reward of all responses."""
    variances: Floats | None = None
    """[iterations], of each mean from the spread of its prompts; nan for less than two; None: not known."""
    prompts: float | None = None
    """Prompts in an iteration, the median; None when not known."""
    probe: Path | None = None
    """Rewards of fixed prompts under the weights of every iteration, where the run measured them."""
    notes: tuple[str, ...] = ()
    """What the reader of the figures should know about the input."""


def from_means(
    name: str,
    source: str,
    means: Mapping[int, float],
    *,
    prompts: float | None = None,
    probe: Path | None = None,
    notes: Sequence[str] = (),
) -> Curve:
    """A curve of mean rewards; iterations without a finite one are left out and named in a note."""
    kept = {step: value for step, value in sorted(means.items()) if np.isfinite(value)}
    steps = np.array(list(kept), dtype=np.int64)
    return Curve(
        name=name,
        source=source,
        steps=steps,
        means=np.array(list(kept.values()), dtype=np.float64),
        prompts=prompts,
        probe=probe,
        notes=(*notes, *_left_out(set(means) - set(kept)), *_gaps(steps)),
    )


def from_prompts(
    name: str, source: str, rewards: Mapping[int, Mapping[str, Sequence[float]]], *, notes: Sequence[str] = ()
) -> Curve:
    """A curve from the rewards of all responses, by iteration and prompt.

    A mean's variance is that of its prompts' means divided by their number: what another draw of prompts and
    of responses would change. Rewards that are not finite are left out.
    """
    means: dict[int, float] = {}
    variances: dict[int, float] = {}
    counts: dict[int, int] = {}
    for step, by_prompt in rewards.items():
        finite = [np.array([r for r in values if np.isfinite(r)]) for values in by_prompt.values()]
        groups = [values for values in finite if len(values)]
        means[step] = float(np.concatenate(groups).mean()) if groups else np.nan
        counts[step] = len(groups)
        each = np.array([values.mean() for values in groups])
        variances[step] = float(each.var(ddof=1) / len(each)) if len(each) > 1 else np.nan
    curve = from_means(name, source, means, notes=notes)
    known = np.array([variances[int(step)] for step in curve.steps])
    numbers = np.array([counts[int(step)] for step in curve.steps])
    more = list(curve.notes)
    if numbers.size and numbers.max() != numbers.min():
        more.append(f"iterations hold {numbers.min()} to {numbers.max()} prompts")
    if not np.isfinite(known).any():
        more.append("no iteration has rewards of two prompts, so their spread is not known")
    return Curve(
        name=name,
        source=source,
        steps=curve.steps,
        means=curve.means,
        variances=known if np.isfinite(known).any() else None,
        prompts=float(np.median(numbers)) if numbers.size else None,
        notes=tuple(more),
    )


def check_length(curve: Curve, window: int) -> None:
    """Refuse what is too short, or does not vary.

    Raises:
        ConfigError: saying how many iterations there are and how many are needed.
    """
    least = window + BEYOND_WINDOW
    if len(curve.means) < least:
        raise ConfigError(
            f"{curve.name}: {len(curve.means)} iterations with a reward ({curve.source}); "
            f"with a window of {window} at least {least} are needed"
        )
    if np.ptp(curve.means) == 0:
        raise ConfigError(
            f"{curve.name}: the mean reward is {curve.means[0]:g} in all {len(curve.means)} iterations "
            f"({curve.source}), so no feedback is defined"
        )


def _left_out(steps: set[int]) -> list[str]:
    if not steps:
        return []
    named = ", ".join(str(step) for step in sorted(steps)[:_NAMED])
    more = ", ..." if len(steps) > _NAMED else ""
    return [f"left out, because their reward is missing or not finite: iterations {named}{more}"]


def _gaps(steps: NDArray[np.int64]) -> list[str]:
    """Runs that log every n-th step, and runs with holes, are read as if their rows were neighbours."""
    apart = np.unique(np.diff(steps))
    if not apart.size or (apart == 1).all():
        return []
    if len(apart) == 1:
        return [
            f"rows are {apart[0]} steps apart; each is read as one iteration, so changes are between rows"
        ]
    return [f"rows are {apart[0]} to {apart[-1]} steps apart; they are read as neighbours all the same"]
