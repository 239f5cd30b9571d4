"""Sampling of rows with unequal probabilities, an unbiased estimate of the update on all rows."""

from __future__ import annotations

import torch
from torch import Tensor


def row_weights(attribution: Tensor, mask: Tensor) -> Tensor:
    """What the probability of a row is proportional to: mean |s| over its own sampled tokens.

    The estimate is least noisy for its cost when a row's probability is proportional to the norm of its
    gradient divided by the square root of its cost. With n tokens whose gradients point in unrelated
    directions, the norm under token-mean aggregation is |s| sqrt(n) and the cost n, which leaves |s|. Tokens
    that pull together, or the means over each response that GSPO takes, would ask for a power of n up to
    sqrt(n) or down to 1 / n; which of them holds is not known before the backward pass, and the estimate is
    unbiased with any weights, so that every aggregation uses the same ones.

    Args:
        attribution: [N, R], 0 where nothing was sampled.
        mask: bool [N, R], the sampled tokens.

    Returns:
        float64 [N]; zero exactly where all of a row's attribution is zero.
    """
    return attribution.double().abs().sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def inclusion_probabilities(weights: Tensor, fraction: float) -> Tensor:
    """p_i = min(1, c w_i), with c such that the p_i add up to ``fraction`` times the number of w_i > 0.

    They add up to one row at least, so that no draw is empty: an optimiser step without a gradient would
    still move the weights by its momentum.

    Args:
        weights: float64 [N], finite and >= 0.
        fraction: in (0, 1].

    Returns:
        float64 [N], zero exactly where the weight is zero.

    Example:
        Half of the four rows that weigh something are two rows. By their shares of 8 the first would get
        2 * 4 / 8 = 1; at 0.625 of them, 2.5 rows, it would get 1.25. So it is certain, and the others have
        1.5 rows to share by weights that add up to 4: 1.5 / 4 = 0.375 for each unit.

        >>> weights = torch.tensor([4, 1, 1, 0, 2], dtype=torch.float64)
        >>> inclusion_probabilities(weights, 0.5).tolist()
        [1.0, 0.25, 0.25, 0.0, 0.5]
        >>> inclusion_probabilities(weights, 0.625).tolist()
        [1.0, 0.375, 0.375, 0.0, 0.75]
    """
    falling, _ = weights[weights > 0].sort(descending=True)
    if not len(falling):
        return torch.zeros_like(weights)
    wanted = max(1.0, fraction * len(falling))
    # With the k largest at 1, the others share what is left; k is right when none of them exceeds 1 then.
    remaining = wanted - torch.arange(len(falling), dtype=torch.float64)
    tails = falling.flip(0).cumsum(0).flip(0)
    k = int((remaining * falling <= tails).nonzero()[0, 0])
    return (weights * (remaining[k] / tails[k])).clamp(max=1.0)


def systematic_draw(probabilities: Tensor, start: float) -> Tensor:
    """Bool [N]: rows on whose stretch of the line, p_i long, one of start, start + 1, start + 2, ... falls.

    With ``start`` uniform in [0, 1) each row is drawn with probability p_i, and as many rows are drawn as the
    p_i add up to, rounded down or up. Rows stand group by group; where every group with a signal has the same
    total attribution, as with group-relative advantages, each gets its share of the draw.

    Args:
        probabilities: float64 [N], in [0, 1].
        start: in [0, 1).
    """
    ticks = (probabilities.cumsum(0) - start).ceil()
    return ticks.diff(prepend=ticks.new_zeros(1)) > 0


def sampled_attribution(attribution: Tensor, mask: Tensor, fraction: float, start: float) -> Tensor:
    """The attribution of a few rows, s_i / p_i, and zero for the others; on average it is the whole one.

    A loss that is a sum over rows, each positively homogeneous in its attribution (clipped or not, with a
    dual bound or without), has the same expected gradient with either, when the denominator counts all rows.
    A row without attribution is never drawn, so that nothing else may be in the loss, such as a KL penalty.

    Args:
        attribution: [N, R], 0 where nothing was sampled.
        mask: bool [N, R], the sampled tokens.
        fraction: of the rows with attribution to draw, in (0, 1].
        start: the draw, uniform in [0, 1).

    Returns:
        [N, R]. Attribution that is not finite has no probabilities: it is returned as it is, for the
        optimiser step to find and to refuse.
    """
    weights = row_weights(attribution, mask)
    if not weights.isfinite().all():
        return attribution
    probabilities = inclusion_probabilities(weights, fraction)
    drawn = systematic_draw(probabilities, start)
    factor = torch.where(drawn, 1 / probabilities, torch.zeros_like(probabilities))
    return attribution * factor[:, None].to(attribution.dtype)
