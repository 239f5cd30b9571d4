"""Score responses without gradient: log-probabilities, a critic's values, the sampling mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pipo.lm.critic import Critic
from pipo.lm.packing import PackedRows, pack
from pipo.lm.policy import Policy
from pipo.lm.reference import Scorer
from pipo.modules.batching import row_groups
from pipo.records.cut import Cut
from pipo.records.kept import KeptTokens
from pipo.records.rollouts import Completions, Rollouts, TokenIds

Scored = TypeVar("Scored")


@torch.no_grad()
def score_responses(
    model: Scorer | Critic,
    rollouts: Rollouts,
    *,
    temperature: float,
    token_budget: int,
    device: torch.device,
    passes: Callable[[int], int],
    completions: Completions | None = None,
    prompts: Sequence[TokenIds] | None = None,
    group_size: int | None = None,
    rows: Tensor | None = None,
    kept: KeptTokens | None = None,
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
        completions: other responses than the rollouts', with a ``group_size`` of their own.
        prompts: other prompts than those that were answered, with ``group_size`` responses each.
        group_size: responses per prompt; None for the rollouts' own.
        rows: responses to score, None for all; the others get 0.
        kept: the sampling mask that log-probabilities are over; None for the whole vocabulary.

    Returns:
        float32 [N, R] on the CPU, 0 on tokens that were not sampled.
    """
    completions = rollouts.completions if completions is None else completions
    prompts = rollouts.prompts.prompt_ids if prompts is None else prompts
    group_size = rollouts.group_size if group_size is None else group_size
    rows = torch.arange(len(completions.lengths)) if rows is None else rows
    extra = () if isinstance(model, Critic) else (temperature,)
    out = torch.zeros_like(completions.logprobs)
    groups = row_groups(prompts, group_size, completions.lengths, rows, token_budget)
    flats = _in_passes(
        lambda packed: model(packed.to(device), *extra),
        completions,
        groups,
        passes,
        prompts,
        group_size,
        rollouts.prompts.prompt_ids[0],
        kept,
    )
    # Read together, so that the device is waited for once and not after every pass.
    together = torch.cat(flats).cpu().split([len(flat) for flat in flats]) if flats else ()
    for group, flat in zip(groups, together, strict=True):
        select = torch.tensor(group)
        out[select] = unflatten(flat, completions.sampled[select])
    return out


@torch.no_grad()
def cut_responses(
    policy: Policy,
    rollouts: Rollouts,
    cut: Cut,
    *,
    temperature: float,
    token_budget: int,
    device: torch.device,
    passes: Callable[[int], int],
) -> tuple[Tensor, KeptTokens]:
    """The sampling mask of all responses, and the log-probabilities of their sampled tokens over it.

    Args:
        policy: as it was when it sampled.
        rollouts: the responses.
        cut: top-p, top-k and min-p of sampling.
        temperature: see :func:`score_responses`, like the rest.
        token_budget: tokens of a forward pass.
        device: where the model computes.
        passes: forward passes needed -> made.

    Returns:
        float32 [N, R] on the CPU, 0 on tokens that were not sampled, and the mask.
    """
    completions, own = rollouts.completions, (rollouts.prompts.prompt_ids, rollouts.group_size)
    groups = row_groups(*own, completions.lengths, torch.arange(len(completions.lengths)), token_budget)

    def found_in(packed: PackedRows) -> tuple[Tensor, Tensor, Tensor]:
        return policy.cut_logprobs(packed.to(device), temperature, cut)

    found = _in_passes(found_in, completions, groups, passes, *own, own[0][0])
    order = torch.tensor([row for group in groups for row in group])
    flats, ids, counts = (torch.cat(each).cpu() for each in zip(*found, strict=True))
    sampled, back = completions.sampled[order], order.argsort()
    mask = KeptTokens(ids=ids, counts=unflatten(counts, sampled))
    return unflatten(flats, sampled)[back], mask.rows(back)


def _in_passes(
    call: Callable[[PackedRows], Scored],
    completions: Completions,
    groups: Sequence[Sequence[int]],
    passes: Callable[[int], int],
    prompts: Sequence[TokenIds],
    group_size: int,
    idle_prompt: TokenIds,
    kept: KeptTokens | None = None,
) -> list[Scored]:
    """What is said of each group of rows; in as many passes as other processes make."""
    lengths = completions.lengths
    idle = passes(len(groups)) - len(groups)  # asked first: forward passes may be collective themselves
    responses = completions.response_ids, lengths, completions.sampled
    said = [call(pack(prompts, group_size, *responses, group, kept)) for group in groups]
    for _ in range(idle):
        call(pack([idle_prompt], group_size, *responses, [0], kept))
    return said


def unflatten(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of the True entries in row-major order -> [n, R] with zeros elsewhere."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
