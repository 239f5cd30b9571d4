"""What the boolean response masks promise, checked in one place."""

from __future__ import annotations

from torch import Tensor


def response_lengths(mask: Tensor) -> Tensor:
    """Number of response tokens of every row of a right-padded mask.

    Args:
        mask: bool [n, R], True on response tokens.

    Returns:
        int64 [n], in tokens; 0 for a row of padding.

    Raises:
        ValueError: when a row has padding before a response token, which would silently shift
            everything that is counted from the last token.
    """
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        row = int((mask[:, 1:] & ~mask[:, :-1]).any(dim=1).nonzero()[0, 0])
        raise ValueError(f"mask: row {row} has padding before a response token, expected right padding")
    return mask.sum(dim=1)
