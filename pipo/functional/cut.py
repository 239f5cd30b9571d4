"""Top-p, top-k and min-p: which tokens of a distribution are kept."""

from __future__ import annotations

from torch import Tensor, zeros_like

from pipo.records.cut import Cut


def keep_top(weights: Tensor, cut: Cut) -> Tensor:
    """Zero the weights of all tokens that are not kept; the most likely token always is.

    Args:
        weights: [n, V], not negative, not necessarily of sum 1.
        cut: which tokens are kept.
    """
    if cut.min_p > 0:
        weights = weights * (weights >= cut.min_p * weights.amax(dim=1, keepdim=True))
    if cut.top_k == 0 and cut.top_p >= 1:
        return weights
    ordered, order = weights.sort(dim=1, descending=True)
    if cut.top_k:
        ordered[:, cut.top_k :] = 0
    if cut.top_p < 1:
        cumulative = ordered.double().cumsum(dim=1)
        # A token stays when the ones before it have not reached the threshold yet; the first always stays.
        reached = (cumulative - ordered) >= cut.top_p * cumulative[:, -1:]
        reached[:, 0] = False
        ordered[reached] = 0
    return zeros_like(weights).scatter_(1, order, ordered)
