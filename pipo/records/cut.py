"""The cut of a sampled distribution: top-p, top-k and min-p."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipo.records.options import CountOrNone, Options, Share


class Cut(Options):
    """Which tokens may be drawn. min-p acts first, then top-k, then top-p on what these leave."""

    top_p: Share
    """Nucleus: the smallest set of tokens whose probability reaches this is kept."""
    top_k: CountOrNone
    """Number of most likely tokens kept; 0 keeps all."""
    min_p: Annotated[float, Field(ge=0, lt=1)]
    """Tokens less likely than this share of the most likely one's probability are dropped; 0 keeps all."""

    @property
    def cuts(self) -> bool:
        """Whether any token can be dropped."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0
