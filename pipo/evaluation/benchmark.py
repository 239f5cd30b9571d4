"""A benchmark: parts that are evaluated, columns that are reported, and the average over the columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipo.evaluation.results import Summary, flat
from pipo.evaluation.statistics import Estimate, Floats, bootstrap_means, percentile_interval


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of the report."""

    name: str
    """Heading of the column."""
    shares: Mapping[str, float]
    """Part -> its share in the column; they add up to 1."""


@dataclass(frozen=True, kw_only=True)
class NotCovered:
    """Something that the official benchmark counts and this one does not."""

    name: str
    """What is missing."""
    weight: float
    """Share in the official total, in [0, 1]."""
    why: str
    """Why it is missing."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is evaluated and how it is averaged.

    Raises:
        ValueError: a part is unknown, in no column or in two, or a weight cannot be used.
    """

    name: str
    """Name of the benchmark."""
    parts: Sequence[str]
    """Names of the parts, in order."""
    average: Mapping[str, Sequence[str]] | None
    """Column -> its parts; None: every part is a column."""
    weights: Mapping[str, float] | None
    """Part -> its weight inside its column; None: equal weights."""
    not_covered: Sequence[NotCovered]
    """What is missing."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts: there is nothing to score")
        known = ", ".join(self.parts)
        columns = {part: (part,) for part in self.parts} if self.average is None else self.average
        used = Counter(part for parts in columns.values() for part in parts)
        for key, names in (("average", used), ("weights", self.weights or {})):
            unknown = sorted(set(names) - set(self.parts))
            if unknown:
                raise ValueError(f"{key}: there is no part {', '.join(unknown)}; there are {known}")
        left = [part for part in self.parts if part not in used]
        if left:
            raise ValueError(f"average: {', '.join(left)} would be scored but is in no column")
        twice = [part for part, times in used.items() if times > 1]
        if twice:
            raise ValueError(f"average: {', '.join(twice)} is in more than one column")
        empty = [name for name, parts in columns.items() if not parts]
        if empty:
            raise ValueError(f"average: column {', '.join(empty)} has no parts")
        for name, parts in columns.items():
            self._check_weights(name, parts)

    def _check_weights(self, column: str, parts: Sequence[str]) -> None:
        given = {part: self.weights[part] for part in parts if part in self.weights} if self.weights else {}
        without = [part for part in parts if part not in given]
        if given and without:
            raise ValueError(f"weights: in column {column}, {', '.join(without)} has none and others do")
        bad = [f"{part}={weight}" for part, weight in given.items() if not 0 < weight < float("inf")]
        if bad:
            raise ValueError(f"weights: {', '.join(bad)} must be above 0 and finite")

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the report, in order."""
        named = {part: (part,) for part in self.parts} if self.average is None else self.average
        weights = self.weights or {}
        columns = []
        for name, parts in named.items():
            chosen = {part: float(weights.get(part, 1.0)) for part in parts}
            total = sum(chosen.values())
            columns.append(Column(name=name, shares={part: w / total for part, w in chosen.items()}))
        return tuple(columns)


def part_weights(columns: Sequence[Column]) -> dict[str, float]:
    """Part -> its weight in the average over the columns; they add up to 1."""
    return {part: share / len(columns) for column in columns for part, share in column.shares.items()}


def average(
    columns: Sequence[Column],
    metrics: Mapping[str, Mapping[str, Floats]],
    confidence: float,
    resamples: int,
    seed: int,
) -> Summary:
    """The columns and their unweighted mean.

    The interval of a column or of the average is a bootstrap over problems within each part: every resample
    draws each part's problems anew, as many as it has, and forms the weighted mean as the value does. The
    parts themselves stay fixed, so the interval says how much the value would move with other problems of
    the same kinds, not with other benchmarks.

    Args:
        columns: what is averaged.
        metrics: metric -> part -> one number per problem; each metric covers every part.
        confidence: of the intervals.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        Each metric with its interval, and ``columns: {name: {metric, interval, shares}}``; plain JSON types.
    """
    parts = [part for column in columns for part in column.shares]
    table: Summary = {}
    by_column: dict[str, Summary] = {column.name: {} for column in columns}
    for metric, values in metrics.items():
        # A seed for each part: the parts' problems are drawn independently of each other.
        draws = {part: bootstrap_means(values[part], resamples, (seed, i)) for i, part in enumerate(parts)}
        found, spread = [], []
        for column in columns:
            found.append(sum(w * float(np.mean(values[part])) for part, w in column.shares.items()))
            spread.append(np.sum([w * draws[part] for part, w in column.shares.items()], axis=0))
            own = spread[-1]
            if len(column.shares) == 1:  # the very interval that the part reports for itself
                own = bootstrap_means(values[next(iter(column.shares))], resamples, seed)
            by_column[column.name] |= _entry(metric, found[-1], own, confidence)
        table |= _entry(metric, float(np.mean(found)), np.mean(spread, axis=0), confidence)
    for column in columns:
        by_column[column.name]["shares"] = dict(column.shares)
    return table | {"columns": by_column}


def _entry(metric: str, value: float, spread: Floats, confidence: float) -> Summary:
    low, high = percentile_interval(spread, confidence)
    return flat(metric, Estimate(value=value, low=low, high=high))
