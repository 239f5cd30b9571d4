"""Metrics of one iteration: sums and counts, all-reduced over ranks once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Number = float | int | Tensor


class IterationMetrics:
    """Collects (sum, count) pairs during an iteration; the mean is taken over all ranks at its end.

    Every rank must add the same names in an iteration, because they share one all-reduce.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Number] = {}
        self._counts: dict[str, Number] = {}

    def add(self, name: str, total: Number, count: Number = 1) -> None:
        """Add to the mean of ``name``: ``total`` over ``count`` items on this rank."""
        self._sums[name] = self._sums.get(name, 0.0) + total
        self._counts[name] = self._counts.get(name, 0.0) + count

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside to ``time/<name>``; several uses in an iteration add up."""
        start = time.perf_counter()
        yield
        key = f"time/{name}"
        self._sums[key] = self._sums.get(key, 0.0) + time.perf_counter() - start
        self._counts[key] = 1.0

    def reduce(self, all_reduce_sum: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over all ranks, and a clean slate for the next iteration.

        Args:
            all_reduce_sum: sums a float64 vector over ranks.
        """
        names = sorted(self._sums)
        values = [[float(table[name]) for name in names] for table in (self._sums, self._counts)]
        self._sums.clear()
        self._counts.clear()
        sums, counts = all_reduce_sum(torch.tensor(values, dtype=torch.float64))
        return {
            name: (total / count).item()
            for name, total, count in zip(names, sums, counts, strict=True)
            if count > 0
        }
