"""Reward shaping for training only: DAPO's over-long penalty, and PPO's KL penalty in the reward."""

from __future__ import annotations

import torch
from torch import Tensor

from pipo.functional.divergence import kl_k1
from pipo.functional.masks import last_sampled


def overlong_penalty(lengths: Tensor, max_length: int, buffer: int) -> Tensor:
    """DAPO's soft over-long punishment (arXiv 2503.14476, equation 13).

    Zero up to L_max - buffer, then ((L_max - buffer) - length) / buffer, and -1 from L_max on. With
    ``buffer == max_length`` the penalty starts at the first token.

    Args:
        lengths: tokens that the policy sampled for each response, any shape.
        max_length: L_max, in tokens.
        buffer: length of the ramp, in tokens, in [1, max_length].

    Returns:
        float64 of the shape of ``lengths``, in [-1, 0], to be added to the reward.

    Raises:
        ValueError: when ``buffer`` is not positive or exceeds ``max_length``.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(f"buffer must lie in [1, max_length = {max_length}], got {buffer}")
    excess = lengths.double() - (max_length - buffer)
    # Not -clamp(excess): that would hand out -0.0.
    return (0.0 - excess / buffer).clamp(-1.0, 0.0)


def kl_shaped_rewards(
    rewards: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    """Token rewards of PPO with the KL penalty in the reward (arXiv 2203.02155, equation 2).

    r_{i,t} = -kl_coef * (log pi - log pi_ref) + [t is the last sampled token] * r_i; nothing for a response
    without a sampled token.

    Args:
        rewards: [n], one reward per response.
        logprobs: [n, R], the behaviour policy's; no gradient flows back.
        ref_logprobs: [n, R], the reference model's.
        mask: bool [n, R], the sampled tokens.
        kl_coef: weight of the k1 estimate, >= 0; 0 leaves the reward alone.

    Returns:
        [n, R] of the dtype of ``logprobs``, 0 on all other tokens.

    Raises:
        ValueError: when ``kl_coef`` is negative or a shape is wrong.
    """
    if not kl_coef >= 0:
        raise ValueError(f"kl_coef must be >= 0, got {kl_coef}")
    if rewards.shape != mask.shape[:1]:
        raise ValueError(f"rewards: expected shape {tuple(mask.shape[:1])}, got {tuple(rewards.shape)}")
    for name, tensor in (("logprobs", logprobs), ("ref_logprobs", ref_logprobs)):
        if tensor.shape != mask.shape:
            raise ValueError(f"{name}: expected shape {tuple(mask.shape)}, got {tuple(tensor.shape)}")
    last = last_sampled(mask)
    penalty = kl_coef * kl_k1(logprobs.detach(), ref_logprobs)
    shaped = torch.where(mask, -penalty, torch.zeros_like(penalty))
    ends = torch.arange(mask.shape[1], device=mask.device) == last[:, None]
    return shaped + rewards.to(shaped.dtype)[:, None] * ends
