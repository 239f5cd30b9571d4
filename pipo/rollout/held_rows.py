"""Rows that the local engine keeps of a call, so that the next one goes on from there.

Rows that are finished leave the batch while others are still being sampled, so that what is kept lies in
several caches; their columns differ, as there is padding behind a prompt and nothing behind a response. A row
that goes on gets its tokens' columns side by side in a new cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipo.lm.cache import PreallocatedCache
from pipo.records.movable import sent
from pipo.records.rollouts import pad_rows


class HeldRows:
    """Keys and values of the rows of a call, all tokens but the last that was drawn, which nobody has read.

    Args:
        real: bool [rows, width], on the CPU: which of the columns before the response hold tokens.
    """

    def __init__(self, real: Tensor) -> None:
        self._real = real
        self._parts: list[PreallocatedCache] = []
        self._places: dict[int, tuple[int, int]] = {}
        self._drawn: list[int] = []

    def take(self, cache: PreallocatedCache, rows: Sequence[int]) -> None:
        """Keep a cache.

        Args:
            cache: of these rows; nobody writes to it any more.
            rows: which rows of the call they are.
        """
        self._places |= {row: (len(self._parts), place) for place, row in enumerate(rows)}
        self._parts.append(cache)

    def finish(self, drawn: Sequence[int]) -> None:
        """The call is over.

        Args:
            drawn: tokens of each response.
        """
        self._drawn = list(drawn)

    def lengths(self, rows: Sequence[int]) -> list[int]:
        """How many tokens of these rows are kept, prompt and response."""
        return [int(self._real[row].sum()) + self._drawn[row] - 1 for row in rows]

    def restored(self, rows: Sequence[int], capacity: int, device: torch.device) -> PreallocatedCache:
        """A cache of these rows, the tokens of each from the first column on; behind a short one is padding.

        Args:
            rows: of the call, in the order wanted.
            capacity: columns of the new cache.
            device: of the model.
        """
        width = self._real.shape[1]
        columns, _ = pad_rows(
            [
                [*self._real[row].nonzero()[:, 0].tolist(), *range(width, width + self._drawn[row] - 1)]
                for row in rows
            ]
        )
        cache = PreallocatedCache(len(self._parts[0].layers), capacity)
        for number, part in enumerate(self._parts):
            to = [place for place, row in enumerate(rows) if self._places[row][0] == number]
            if to:
                source = torch.tensor([self._places[rows[place]][1] for place in to])
                target = torch.tensor(to)
                placed = (sent(source, device), sent(target, device), sent(columns[target], device))
                cache.copy(part, *placed, rows=len(rows))
        return cache
