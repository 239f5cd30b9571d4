"""Divergences from a reference policy, estimated on sampled tokens."""

from __future__ import annotations

from torch import Tensor


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The low-variance estimate of KL(pi || pi_ref): exp(d) - d - 1 with d = log pi_ref - log pi.

    Never negative, zero where both agree. d is clamped to +-20, so a token that the policy has
    all but forgotten cannot overflow.

    Args:
        logprobs: [n, R], carries the gradient.
        ref_logprobs: [n, R].

    Returns:
        [n, R].
    """
    difference = (ref_logprobs - logprobs).clamp(-20.0, 20.0)
    return difference.exp() - difference - 1
