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


def _first_beyond(weights: Tensor, uniform: Tensor) -> Tensor:
    """First index whose cumulative weight exceeds ``uniform`` of the total.

    A double below 1, times the total, is below the total however it is rounded, so the index is one of a
    weight above zero. Where weights are no numbers it is the last; its log-probability is no number either.

    Args:
        weights: float64 [n, k].
        uniform: float64 [n, 1], in [0, 1).

    Returns:
        int64 [n, 1].
    """
    cumulative = weights.cumsum(dim=1)
    index = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return index.clamp_(max=weights.shape[1] - 1)


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
    """Sum of each row in double precision, [n, 1]."""
    if weights.shape[1] <= 2 * BLOCK:
        return weights.sum(dim=1, keepdim=True, dtype=torch.float64)
    return block_sums(weights).sum(dim=1, keepdim=True)


def invert_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw an index with probability proportional to its weight.

    Args:
        weights: [n, V], not negative, some positive in each row.
        uniform: float64 [n], in [0, 1).

    Returns:
        int64 [n]; never an index of weight zero.
    """
    size, uniform = weights.shape[1], uniform[:, None]
    if size <= 2 * BLOCK:
        return _first_beyond(weights.double(), uniform)[:, 0]
    sums = block_sums(weights)
    block = _first_beyond(sums, uniform)
    chosen = sums.gather(1, block)
    before = sums.cumsum(dim=1).gather(1, block) - chosen
    within = ((uniform * sums.sum(dim=1, keepdim=True) - before) / chosen).clamp(0.0, 1.0)
    columns = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    # The last block may be shorter; what would lie beyond it weighs nothing.
    entries = weights.gather(1, columns.clamp(max=size - 1)).double() * (columns < size)
    # Here the share may be 1; the last entry with weight is the right one then.
    last = BLOCK - 1 - (entries > 0).flip(1).int().argmax(dim=1, keepdim=True)
    index = block * BLOCK + torch.minimum(_first_beyond(entries, within), last)
    return index.clamp_(max=size - 1)[:, 0]


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
    chosen = probabilities.gather(1, tokens[:, None])
    # Over a large vocabulary they add up to 1 only to 1e-5, and after a cut they do not at all.
    return tokens, (chosen / _total(probabilities)).log_().float()[:, 0]
