"""Random policy batches for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pipo.functional.advantages import group_attribution, group_relative_advantages
from pipo.records.batches import PolicyBatch


def policy_batch(*, prompts: int, group_size: int, width: int, seed: int = 0, **changes: Any) -> PolicyBatch:
    """Binary rewards with a degenerate group (the first), prompts and responses of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = prompts * group_size
    rewards = torch.randint(0, 2, (rows,), generator=generator).float()
    rewards[:group_size] = 1.0
    rewards[-group_size] = 1.0 - rewards[-1]
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    lengths[-1] = width
    mask = torch.arange(width)[None] < lengths[:, None]
    advantages = group_relative_advantages(rewards, group_size, 1e-6)
    batch = PolicyBatch(
        prompt_ids=tuple(tuple(range(3, 4 + i % 3)) for i in range(prompts)),
        group_size=group_size,
        response_ids=torch.randint(2, 48, (rows, width), generator=generator) * mask,
        response_mask=mask,
        sampled=mask,
        old_logprobs=-3 * torch.rand(rows, width, generator=generator) * mask,
        advantages=advantages[:, None] * mask,
        attribution=group_attribution(advantages, group_size)[:, None] * mask,
        ref_logprobs=None,
        kl_coef=0.0,
        teacher_prompt_ids=None,
        value_targets=None,
    )
    return replace(batch, **changes)
