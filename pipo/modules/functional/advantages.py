"""Advantages of the base objectives and the attribution that policy improvement re-uses."""

from __future__ import annotations

import torch
from torch import Tensor


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
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    scaled = centred / (groups.std(dim=1, correction=1, keepdim=True) + eps)
    # Rounding leaves 1e-8 where all rewards are equal, say, 0.1; that must not pass for a signal.
    degenerate = (groups == groups[:, :1]).all(dim=1, keepdim=True)
    return torch.where(degenerate, torch.zeros_like(scaled), scaled).view(-1)


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
