"""Score responses without gradient: a policy's log-probabilities or a critic's values of sampled tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipo.lm.critic import Critic
from pipo.lm.packing import pack
from pipo.lm.reference import Scorer
from pipo.modules.batching import row_groups
from pipo.records.rollouts import Rollouts, TokenIds


@torch.no_grad()
def score_responses(
    model: Scorer | Critic,
    rollouts: Rollouts,
    *,
    temperature: float,
    token_budget: int,
    device: torch.device,
    passes: Callable[[int], int],
    prompts: Sequence[TokenIds] | None = None,
    group_size: int | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Log-probabilities of the sampled tokens under a policy, or a critic's values before them.

    Args:
        model: the model.
        rollouts: the responses.
        temperature: sampling temperature that defines the policy; a critic has none.
        token_budget: see :func:`~pipo.modules.batching.row_groups`.
        device: where the model computes.
        passes: forward passes that this process needs -> forward passes that it makes; sharded models need
            the same number on every process.
        prompts: other prompts than those that were answered, with ``group_size`` responses each.
        group_size: responses per prompt; None for the rollouts' own.
        rows: responses to score, None for all; the others get 0.

    Returns:
        float32 [N, R] on the CPU, 0 on tokens that were not sampled.
    """
    completions, lengths = rollouts.completions, rollouts.completions.lengths
    prompts = rollouts.prompts.prompt_ids if prompts is None else prompts
    group_size = rollouts.group_size if group_size is None else group_size
    rows = torch.arange(len(lengths)) if rows is None else rows
    extra = () if isinstance(model, Critic) else (temperature,)
    out = torch.zeros_like(completions.logprobs)
    groups = row_groups(prompts, group_size, lengths, rows, token_budget)
    idle = passes(len(groups)) - len(groups)  # asked first: forward passes may be collective themselves
    flats: list[Tensor] = []
    for group in groups:
        packed = pack(prompts, group_size, completions.response_ids, lengths, completions.sampled, group)
        flats.append(model(packed.to(device), *extra))
    for _ in range(idle):
        own = rollouts.prompts.prompt_ids, rollouts.group_size
        model(pack(*own, completions.response_ids, lengths, completions.sampled, [0]).to(device), *extra)
    # Read together, so that the device is waited for once and not after every pass.
    together = torch.cat(flats).cpu().split([len(flat) for flat in flats]) if flats else ()
    for group, flat in zip(groups, together, strict=True):
        select = torch.tensor(group)
        out[select] = unflatten(flat, completions.sampled[select])
    return out


def unflatten(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of the True entries in row-major order -> [n, R] with zeros elsewhere."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
