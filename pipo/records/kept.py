"""The sampling mask of responses: the tokens that top-p, top-k and min-p kept where each token was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipo.records.movable import Movable
from pipo.records.shapes import check_tensor


@dataclass(frozen=True, kw_only=True)
class KeptSets(Movable):
    """Sets of tokens of M sampled tokens, laid end to end."""

    ids: Tensor
    """int32 [T], the kept tokens, set after set."""
    places: Tensor
    """int64 [T], which of the M sampled tokens each belongs to."""

    def mask(self, start: int, rows: int, vocabulary: int) -> Tensor:
        """Bool [rows, vocabulary]: the sets of so many sampled tokens from a place on.

        Entries of other places go to a row that is thrown away: choosing them would make a GPU wait.
        """
        row = self.places - start
        row = torch.where((row >= 0) & (row < rows), row, torch.full_like(row, rows))
        mask = torch.zeros(rows + 1, vocabulary, dtype=torch.bool, device=self.ids.device)
        mask[row, self.ids.long()] = True
        return mask[:rows]


@dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """The sampling mask of N responses; 4 bytes per kept token, and 4 per response position."""

    ids: Tensor
    """int32 [T], the kept tokens of each sampled token, in the order of rows and positions."""
    counts: Tensor
    """int32 [N, R], how many tokens were kept; 0 where none was sampled."""

    def __post_init__(self) -> None:
        check_tensor("kept.counts", self.counts, tuple(self.counts.shape), torch.int32)
        check_tensor("kept.ids", self.ids, (int(self.counts.sum()),), torch.int32)

    def rows(self, index: Tensor) -> KeptTokens:
        """Those of some responses, in the given order."""
        parts = self.ids.split(self.counts.sum(dim=1).tolist())
        chosen = [parts[i] for i in index.tolist()]
        return KeptTokens(
            ids=torch.cat(chosen) if chosen else self.ids[:0], counts=self.counts[index].contiguous()
        )

    def sets(self, rows: Sequence[int], sampled: Tensor) -> KeptSets:
        """Those of the sampled tokens of some rows, row after row; ``sampled`` is the mask of all rows."""
        index = torch.tensor(rows, dtype=torch.int64)
        chosen = self.rows(index)
        counts = chosen.counts[sampled[index]].long()
        return KeptSets(ids=chosen.ids, places=torch.arange(len(counts)).repeat_interleave(counts))

    @staticmethod
    def join(parts: Sequence[KeptTokens]) -> KeptTokens:
        """Those of several batches, one after another, padded to the longest response."""
        width = max(part.counts.shape[1] for part in parts)
        return KeptTokens(
            ids=torch.cat([part.ids for part in parts]),
            counts=torch.cat([F.pad(part.counts, (0, width - part.counts.shape[1])) for part in parts]),
        )
