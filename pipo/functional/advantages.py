"""Advantages of the base objectives and the attribution that policy improvement re-uses."""

from __future__ import annotations

import torch
from torch import Tensor

# Keeps equal advantages at zero instead of dividing by a variance of zero.
WHITEN_EPS = 1e-8


def group_relative_advantages(rewards: Tensor, group_size: int, eps: float) -> Tensor:
    """A_i = (r_i - mean) / (sample std + eps) inside the group of each prompt (GRPO).

    Args:
        rewards: [B * G], group-major.
        group_size: G, at least 2.
        eps: added to the standard deviation.

    Returns:
        [B * G]; exactly zero in a group whose rewards are all equal.

    Raises:
        ValueError: when the rewards do not fill whole groups.
    """
    if group_size < 2 or rewards.numel() % group_size:
        raise ValueError(
            f"{rewards.numel()} rewards do not form groups of {group_size} (at least 2 are needed)"
        )
    deviation = rewards.view(-1, group_size).std(dim=1, correction=1, keepdim=True)
    return (group_centred(rewards, group_size).view(-1, group_size) / (deviation + eps)).view(-1)


def group_centred(rewards: Tensor, group_size: int) -> Tensor:
    """r_i - mean inside the group of each prompt, [B * G]; exactly zero where all rewards are equal."""
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    # Rounding leaves 1e-8 where all rewards are equal, say, 0.1; that must not pass for a signal.
    degenerate = (groups == groups[:, :1]).all(dim=1, keepdim=True)
    return torch.where(degenerate, torch.zeros_like(centred), centred).view(-1)


def length_weighted_centred(rewards: Tensor, lengths: Tensor, group_size: int) -> Tensor:
    """r_i - sum_j n_j r_j / sum_j n_j inside the group of each prompt (OPO, arXiv 2505.23585).

    The baseline of least variance weighs each reward by the squared norm of its response's gradient, which
    grows as the length where the tokens' gradients are unrelated.

    Args:
        rewards: [B * G], group-major.
        lengths: [B * G], sampled tokens of each response.
        group_size: G.

    Returns:
        [B * G]; exactly zero in a group whose rewards are all equal, or that has no token.
    """
    groups, weights = rewards.view(-1, group_size), lengths.view(-1, group_size).to(rewards.dtype)
    baseline = (groups * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1)
    silent = (groups == groups[:, :1]).all(dim=1, keepdim=True) | (weights == 0).all(dim=1, keepdim=True)
    return torch.where(silent, torch.zeros_like(groups), groups - baseline).view(-1)


def likelihood_advantages(rewards: Tensor, successes: Tensor, group_size: int) -> Tensor:
    """(r_i - mean) / p inside the group of each prompt, p its mean success (MaxRL, arXiv 2602.02710).

    For binary rewards with K of G right: (G - K) / K for a right response and -1 for a wrong one. Algorithm 1
    leaves a group without a success out altogether, so that on average the gradient is

        sum_{k=1}^{G-1} (1 - p)^(k-1) grad p,    the first G - 1 terms of grad log p

    (theorem 5 in appendix D of the third version). Nothing is added to the denominator, as the paper has it;
    the authors' code adds 1e-6.

    Args:
        rewards: [B * G], those that are trained on, group-major.
        successes: [B * G], the verifier's, which p is the mean of.
        group_size: G.

    Returns:
        [B * G]; exactly zero where all rewards are equal, or p is not positive.
    """
    p = successes.view(-1, group_size).mean(dim=1, keepdim=True)
    scale = torch.where(p > 0, 1 / torch.where(p > 0, p, torch.ones_like(p)), torch.zeros_like(p))
    return (group_centred(rewards, group_size).view(-1, group_size) * scale).view(-1)


def difficulty_weights(
    advantages: Tensor, successes: Tensor, group_size: int, anchor: float, scale: float
) -> Tensor:
    """Phi_i = scale exp(-sgn(A_i) (p - anchor)) (HA-DW, arXiv 2601.08521, equations 13 to 16).

    p is the group's success rate, the anchor what the policy has reached lately. A query below it is a hard
    one: its right responses weigh more and its wrong ones less, and the other way round above it. That is
    meant to make up for groups without differences, which are left out and so bias the mean of the rest.

    Args:
        advantages: [B * G], group-major; the signs are used.
        successes: [B * G], verifier rewards.
        group_size: G.
        anchor: success rate in [0, 1].
        scale: lambda, positive.

    Returns:
        [B * G], positive.
    """
    p = successes.view(-1, group_size).mean(dim=1, keepdim=True)
    signs = advantages.view(-1, group_size).sign()
    return scale * torch.exp(-signs * (p - anchor)).view(-1)


def group_attribution(advantages: Tensor, group_size: int) -> Tensor:
    """s_i = G * A_i / sum_j |A_j| inside the group: who earned the group's result (PIPO, section 3).

    Binary rewards with c of G correct give +G / (2c) to a correct and -G / (2(G - c)) to a wrong
    response, whatever convention scaled the advantages.

    Args:
        advantages: [B * G], group-major.
        group_size: G.

    Returns:
        [B * G]; zero in a degenerate group.
    """
    groups = advantages.view(-1, group_size)
    total = groups.abs().sum(dim=1, keepdim=True)
    share = group_size * groups / torch.where(total > 0, total, torch.ones_like(total))
    return share.view(-1)


def penalised_returns(rewards: Tensor, penalties: Tensor, mask: Tensor) -> Tensor:
    """A_k = r - sum of the penalties from token k on (REINFORCE++, arXiv 2501.03262, equation 4).

    Args:
        rewards: [n], one per response.
        penalties: [n, R], of each token.
        mask: bool [n, R], the sampled tokens; what stands on others is never read.

    Returns:
        [n, R], 0 on all other tokens.
    """
    own = torch.where(mask, penalties, torch.zeros_like(penalties))
    to_come = own.flip(1).cumsum(dim=1).flip(1)
    return torch.where(mask, rewards[:, None] - to_come, torch.zeros_like(to_come))


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, equation 16) per sampled token.

    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = sum_l (gamma * lam)^l * delta_{t+l}, where t counts the
    sampled tokens alone: sampling one is an action, and what the environment inserts before the next one is
    part of the step between their states. So nothing is discounted over inserted tokens. A response is an
    episode: V is 0 after its last sampled token, also for a response that was cut at the length limit.

    Args:
        rewards: [n, R], reward of each token.
        values: [n, R], the critic's prediction before each token; treated as constants.
        mask: bool [n, R], the sampled tokens; what stands on others is never read.
        gamma: discount per sampled token, in [0, 1].
        lam: trace decay per sampled token, in [0, 1].

    Returns:
        advantages [n, R], not whitened, and returns [n, R] = advantages + values; both 0 on other tokens.

    Raises:
        ValueError: when a factor or a shape is wrong.
    """
    for name, factor in (("gamma", gamma), ("lam", lam)):
        if not 0 <= factor <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {factor}")
    for name, tensor in (("rewards", rewards), ("values", values)):
        if tensor.shape != mask.shape:
            raise ValueError(f"{name}: expected shape {tuple(mask.shape)}, got {tuple(tensor.shape)}")
    values = torch.where(mask, values, torch.zeros_like(values))
    advantages = torch.zeros_like(values)
    # Of the sampled token that comes next in each row, whatever stands between.
    next_value = values.new_zeros(len(values))
    running = values.new_zeros(len(values))
    for step in reversed(range(values.shape[1])):
        here, value = mask[:, step], values[:, step]
        delta = rewards[:, step] + gamma * next_value - value
        running = torch.where(here, delta + gamma * lam * running, running)
        next_value = torch.where(here, value, next_value)
        advantages[:, step] = torch.where(here, running, advantages[:, step])
    return advantages, advantages + values


def moments(values: Tensor, mask: Tensor) -> Tensor:
    """Sum, sum of squares and count of the masked values; summed over ranks they describe the whole batch.

    Args:
        values: [n, R].
        mask: bool [n, R].

    Returns:
        float64 [3]. In float64 because the variance is a difference of two large sums.
    """
    kept = values[mask].double()
    return torch.stack([kept.sum(), kept.square().sum(), mask.sum().double()])


def variance(totals: Tensor) -> Tensor:
    """Unbiased variance from :func:`moments`.

    Args:
        totals: float64 [3], possibly summed over ranks.

    Returns:
        float64 scalar, >= 0.

    Raises:
        ValueError: when fewer than 2 values were counted.
    """
    total, squares, count = totals.unbind()
    if not count >= 2:
        raise ValueError(f"a variance needs at least 2 sampled tokens, got {count.item():g}")
    return ((squares - total.square() / count) / (count - 1)).clamp(min=0.0)


def whiten(values: Tensor, mask: Tensor, totals: Tensor | None = None) -> Tensor:
    """(x - mean) / sqrt(Var + 1e-8) over the sampled tokens, with the unbiased variance.

    Args:
        values: [n, R].
        mask: bool [n, R], the sampled tokens.
        totals: the :func:`moments` of all ranks, summed; None takes those of ``values``.

    Returns:
        [n, R] of the dtype of ``values``, 0 on all other tokens.

    Raises:
        ValueError: when fewer than 2 tokens were counted.
    """
    totals = moments(values, mask) if totals is None else totals
    scaled = (values - totals[0] / totals[2]) * torch.rsqrt(variance(totals) + WHITEN_EPS)
    return torch.where(mask, scaled, torch.zeros_like(scaled))


def whiten_batch(values: Tensor, mask: Tensor, totals: Tensor) -> Tensor:
    """:func:`whiten` for training: 0 where dynamic sampling has left all ranks fewer than 2 tokens together.

    Args:
        values: [n, R].
        mask: bool [n, R], the sampled tokens.
        totals: the :func:`moments` of all ranks, summed.
    """
    return whiten(values, mask, totals) if totals[2] > 1 else torch.zeros_like(values)
