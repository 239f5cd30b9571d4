"""Clipped surrogate loss, in the signed form, with token or sequence ratio and dual clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClipRange:
    """Trust region of the probability ratio."""

    low: float
    """The ratio is clipped below at 1 - low."""
    high: float
    """The ratio is clipped above at 1 + high."""
    dual: float | None
    """For a negative advantage the loss is at most ``-dual * advantage``; None for no bound."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1:
            raise ValueError(f"clip_low must lie in [0, 1], got {self.low}")
        if self.high < 0:
            raise ValueError(f"clip_high must be >= 0, got {self.high}")
        if self.dual is not None and self.dual <= 1:
            raise ValueError(f"dual_clip must be > 1 or null, got {self.dual}")


def token_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Nu = pi / pi_old of every token, [n, R]; the exponent is kept within +-20 against overflow."""
    return torch.exp((logprobs - old_logprobs).clamp(-20.0, 20.0))


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """GSPO's ratio: exp of the mean log-ratio over the response, the same on each of its tokens, [n, R].

    The value is the sequence's; the gradient reaches each token with the weight 1 / |y|. Only the tokens of
    the mask, the sampled ones, are in the mean and in |y|.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    mean = log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.exp(mean.clamp(-20.0, 20.0)).expand_as(logprobs)


def geometric_mean_ratio(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: ClipRange
) -> Tensor:
    """GMPO's ratio: geometric mean of the response's token ratios, each clipped before, [n, R].

    Equation 4 of arXiv 2507.20673: prod_t |min(rho_t A, clip(rho_t, 1 - low, 1 + high) A)|^(1 / |y|) sgn(A),
    so a token of a response with A > 0 is bounded above, of one with A < 0 below. As there, in logarithms.
    A token that is clipped has no gradient and still counts in |y|; one with A = 0 counts as a ratio of 1.

    Args:
        logprobs: [n, R], carries the gradient.
        old_logprobs: [n, R].
        advantages: [n, R]; the signs are used, which are those of the response.
        mask: bool [n, R], the sampled tokens.
        clip: range of the token ratio.

    Returns:
        The response's value on each of its tokens.
    """
    gap = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    least = math.log1p(-clip.low) if clip.low < 1 else -math.inf
    bounded = torch.where(advantages > 0, gap.clamp(max=math.log1p(clip.high)), gap.clamp(min=least))
    bounded = torch.where(advantages == 0, torch.zeros_like(gap), bounded)
    mean = bounded.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.exp(mean.clamp(-20.0, 20.0)).expand_as(logprobs)


def soft_gate(ratio: Tensor, advantages: Tensor, positive: float, negative: float) -> tuple[Tensor, Tensor]:
    """SAPO's gate in the place of a clip range: f(nu) = sigmoid(tau (nu - 1)) * 4 / tau, and its slope.

    Equations 5 and 6 of arXiv 2511.20347. With p = sigmoid(tau (nu - 1)) the slope is 4 p (1 - p): 1 at
    nu = 1, where the update is the plain policy gradient, and falling to 0 on both sides of it.

    Args:
        ratio: [n, R], carries the gradient.
        advantages: [n, R]; the temperature goes by the sign.
        positive: tau for A > 0.
        negative: tau for A <= 0.

    Returns:
        f [n, R], and the slope [n, R] without gradient.
    """
    tau = torch.where(advantages > 0, ratio.new_tensor(positive), ratio.new_tensor(negative))
    p = torch.sigmoid(tau * (ratio - 1))
    return p * 4 / tau, (4 * p * (1 - p)).detach()


def probability_clip_range(
    old_logprobs: Tensor, low: float, high: float, cap: float
) -> tuple[Tensor, Tensor]:
    """DCPO's clip range, where |nu - 1| pi is at most epsilon, so that rare tokens may move further.

    Equation 4 of arXiv 2509.02333, with q = pi_old:

        1/2 + sqrt(max(1 - 4 low / q, 0)) / 2  <=  nu  <=  min(1/2 + sqrt(1 + 4 high / q) / 2, cap)

    Args:
        old_logprobs: [n, R], log q.
        low: epsilon below.
        high: epsilon above.
        cap: the upper bound is nowhere higher.

    Returns:
        Lower and upper bound, [n, R] each.
    """
    inverse = torch.exp((-old_logprobs).clamp(max=20.0))
    lower = 0.5 + (1 - 4 * low * inverse).clamp(min=0.0).sqrt() / 2
    upper = 0.5 + (1 + 4 * high * inverse).sqrt() / 2
    return lower, upper.clamp(max=cap)


def loss_within(ratio: Tensor, advantages: Tensor, low: Tensor, high: Tensor, cap: float) -> Tensor:
    """The clipped surrogate, -min(nu A, clip(nu, low, high) A), and for A < 0 at most -cap A.

    Args:
        ratio: [n, R].
        advantages: [n, R].
        low: [n, R], lower bound of each token's ratio.
        high: [n, R], upper bound.
        cap: bound on the ratio for A < 0.
    """
    loss = torch.maximum(-ratio * advantages, -torch.clamp(ratio, low, high) * advantages)
    return torch.where(advantages < 0, torch.minimum(loss, -cap * advantages), loss)


def clipped_surrogate_loss(ratio: Tensor, advantages: Tensor, clip: ClipRange) -> Tensor:
    """-min(nu * A, clip(nu) * A) per token, with the dual bound for A < 0.

    The minimum is taken over the *signed* products. For A > 0 the gradient is zero iff nu > 1 + high,
    for A < 0 iff nu < 1 - low (or past the dual bound). Taking ``min(nu, clip(nu)) * A`` instead
    would leave negative advantages without a lower trust region.

    Args:
        ratio: [n, R].
        advantages: [n, R].
        clip: the trust region.

    Returns:
        Loss to minimise, [n, R].
    """
    plain = -ratio * advantages
    clipped = -ratio.clamp(1 - clip.low, 1 + clip.high) * advantages
    loss = torch.maximum(plain, clipped)
    if clip.dual is None:
        return loss
    bounded = torch.minimum(loss, -clip.dual * advantages)
    return torch.where(advantages < 0, bounded, loss)


def plain_minimum_loss(ratio: Tensor, advantages: Tensor, clip: ClipRange) -> Tensor:
    """-min(nu, clip(nu)) * A per token: the minimum of the ratios and not of the signed products.

    As in the authors' code of PIPO, for comparison. The minimum is min(nu, 1 + high), so that for A < 0 the
    gradient goes on below 1 - low and is zero above 1 + high. There is no dual bound.

    Args:
        ratio: [n, R].
        advantages: [n, R].
        clip: the trust region.

    Returns:
        Loss to minimise, [n, R].
    """
    return -torch.minimum(ratio, ratio.clamp(1 - clip.low, 1 + clip.high)) * advantages


def clipped_tokens(ratio: Tensor, advantages: Tensor, clip: ClipRange) -> Tensor:
    """Bool [n, R]: tokens whose gradient the trust region removed (dual bound not counted)."""
    above = (advantages > 0) & (ratio > 1 + clip.high)
    below = (advantages < 0) & (ratio < 1 - clip.low)
    return above | below
