"""Sample tokens by temperature, top-k and top-p, with one uniform number per row (inverse CDF).

``torch.multinomial`` draws one number per vocabulary entry; at 150,000 entries that costs more than the
model on a CPU. Inverting the cumulative distribution needs one, and gives the log-probability on the way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipo.functional.cut import keep_top
from pipo.records.cut import Cut

# Entries summed at a time in the first of the two levels of the inversion.
BLOCK = 256


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """First index whose cumulative weight exceeds ``uniform`` of the total; weights [n, k] float64."""
    cumulative = weights.cumsum(dim=1)
    index = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    # Rounding may push the target onto the total; the last entry with weight is the right one then.
    last = weights.shape[1] - 1 - (weights > 0).flip(1).int().argmax(dim=1, keepdim=True)
    return torch.minimum(index, last)[:, 0]


def block_sums(weights: Tensor) -> Tensor:
    """Sums of ``BLOCK`` entries each, of fewer in the last; [n, V] float32 -> [n, blocks] float64.

    Only sums of blocks are made double: a matrix of doubles would cost more than everything else here.
    """
    full = weights.shape[1] - weights.shape[1] % BLOCK
    sums = weights[:, :full].unflatten(1, (-1, BLOCK)).sum(dim=2).double()
    if full == weights.shape[1]:
        return sums
    return torch.cat([sums, weights[:, full:].sum(dim=1, keepdim=True).double()], dim=1)


def _total(weights: Tensor) -> Tensor:
    """Sum of each row in double precision."""
    if weights.shape[1] <= 2 * BLOCK:
        return weights.sum(dim=1, dtype=torch.float64)
    return block_sums(weights).sum(dim=1)


def invert_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw an index with probability proportional to its weight.

    Args:
        weights: [n, V], not negative, some positive in each row.
        uniform: float64 [n], in [0, 1).

    Returns:
        int64 [n]; never an index of weight zero.
    """
    rows, size = weights.shape
    if size <= 2 * BLOCK:
        return _invert(weights.double(), uniform)
    sums = block_sums(weights)
    block = _invert(sums, uniform)
    at = torch.arange(rows, device=weights.device)
    chosen = sums[at, block]
    before = sums.cumsum(dim=1)[at, block] - chosen
    within = ((uniform * sums.sum(dim=1) - before) / chosen).clamp(0.0, 1.0)
    columns = block[:, None] * BLOCK + torch.arange(BLOCK, device=weights.device)
    # The last block may be shorter; what would lie beyond it weighs nothing.
    entries = weights.gather(1, columns.clamp(max=size - 1)).double() * (columns < size)
    return block * BLOCK + _invert(entries, within)


def sample_tokens(logits: Tensor, uniform: Tensor, temperature: float, cut: Cut) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits: float32 [n, V].
        uniform: float64 [n], in [0, 1); unused when greedy.
        temperature: 0 takes the most likely token.
        cut: which tokens may be drawn; all are kept when greedy.

    Returns:
        int64 [n] tokens and float32 [n] log-probabilities, at this temperature among the tokens that are kept
        (at 1 among all when greedy).
    """
    scaled = logits if temperature in (0.0, 1.0) else logits / temperature
    probabilities = scaled.softmax(dim=1)
    if temperature == 0:
        tokens = logits.argmax(dim=1)
    else:
        probabilities = keep_top(probabilities, cut)
        tokens = invert_cdf(probabilities, uniform)
    chosen = probabilities.gather(1, tokens[:, None])[:, 0]
    # Over a large vocabulary they add up to 1 only to 1e-5, and after a cut they do not at all.
    return tokens, (chosen / _total(probabilities)).log().float()
