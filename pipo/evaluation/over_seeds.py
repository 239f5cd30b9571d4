"""Means over runs that differ in their seed alone, with Student's t-interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipo.evaluation.statistics import Floats
from pipo.functional.students_t import quantile

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds with the half-width of its 95 % t-interval."""

    value: float
    """Mean over seeds."""
    half_width: float
    """Half the width of its interval."""
    seeds: int
    """Number of seeds."""


def half_widths(table: ArrayLike) -> Floats:
    """Half the width of the 95 % t-interval of each column's mean.

    Args:
        table: [seeds, ...].

    Raises:
        ValueError: with less than two seeds.
    """
    values = np.asarray(table, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("at least two seeds are needed for an interval")
    factor = quantile(len(values) - 1, (1 + CONFIDENCE) / 2)
    return factor * values.std(axis=0, ddof=1) / np.sqrt(len(values))


def mean(values: ArrayLike) -> Mean:
    """Mean and interval of one value per seed.

    Raises:
        ValueError: with less than two values.
    """
    array = np.asarray(values, dtype=np.float64)
    return Mean(value=float(array.mean()), half_width=float(half_widths(array)), seeds=len(array))
