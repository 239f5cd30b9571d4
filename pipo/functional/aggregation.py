"""Loss aggregation: token-mean and seq-mean-token-mean; the denominator is always passed in.

A denominator counted inside a micro-batch changes the loss whenever the batch is split in another way;
here it is counted once per optimiser step, over all ranks, and every split gives the same sum.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token-mean", "seq-mean-token-mean"]


def denominator(mask: Tensor, aggregation: Aggregation) -> Tensor:
    """This rank's share of the denominator; sum it over ranks.

    Args:
        mask: bool [N, R], the sampled tokens of the whole mini-batch, rows without gradient included.
        aggregation: ``token-mean`` counts tokens, ``seq-mean-token-mean`` counts responses.

    Returns:
        float64 scalar.
    """
    if aggregation == "token-mean":
        return mask.sum().double()
    if aggregation == "seq-mean-token-mean":
        return mask.any(dim=1).sum().double()
    raise ValueError(f"aggregation must be 'token-mean' or 'seq-mean-token-mean', got {aggregation!r}")


def aggregate(values: Tensor, mask: Tensor, aggregation: Aggregation, total: float) -> Tensor:
    """This micro-batch's share of the aggregated value; shares of all micro-batches add up to it.

    Args:
        values: [n, R] per-token values.
        mask: bool [n, R], the sampled tokens.
        aggregation: see :func:`denominator`.
        total: the denominator of the whole optimiser step.

    Returns:
        Scalar of the dtype of ``values``.

    Raises:
        ValueError: when ``total`` is not positive.
    """
    if not total > 0:
        raise ValueError(f"the denominator of {aggregation} must be positive, got {total}")
    masked = torch.where(mask, values, torch.zeros_like(values))
    if aggregation == "token-mean":
        return masked.sum() / total
    if aggregation == "seq-mean-token-mean":
        return (masked.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / total
    raise ValueError(f"aggregation must be 'token-mean' or 'seq-mean-token-mean', got {aggregation!r}")
