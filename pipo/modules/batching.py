"""Cutting a batch into mini-batches (one optimiser step) and micro-batches (one backward pass)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipo.modules.objectives.base import MicroBatch
from pipo.records import PolicyBatch, TokenIds, pad_rows


def mini_batches(rows: int, size: int) -> list[Tensor]:
    """Consecutive row indices, ``size`` at a time; the last may be shorter."""
    return list(torch.arange(rows).split(size))


def by_token_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences of similar length so that a padded group stays within a token budget.

    Args:
        lengths: tokens of each sequence.
        budget: most padded tokens of one group; a longer sequence gets a group of its own.

    Returns:
        Indices into ``lengths``, shortest sequences first.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # Lengths ascend, so the newest sequence is the one that sets the padded width.
        if groups and (len(groups[-1]) + 1) * lengths[index] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def row_groups(
    prompt_ids: Sequence[TokenIds], group_size: int, lengths: Tensor, rows: Tensor, token_budget: int
) -> list[list[int]]:
    """Split rows into groups of similar total length.

    Args:
        prompt_ids: B prompts.
        group_size: G.
        lengths: int64 [N], response lengths.
        rows: int64, the rows to split.
        token_budget: most padded tokens (prompt and response) of one group.
    """
    indices: list[int] = rows.tolist()
    totals = [len(prompt_ids[i // group_size]) + int(lengths[i]) for i in indices]
    return [[indices[j] for j in group] for group in by_token_budget(totals, token_budget)]


def pack(
    prompt_ids: Sequence[TokenIds], group_size: int, response_ids: Tensor, lengths: Tensor, rows: list[int]
) -> tuple[Tensor, Tensor]:
    """Prompt and response of each row side by side, right-padded.

    Returns:
        int64 [n, T] token ids and bool [n, T], True on response tokens.
    """
    prompts = [prompt_ids[i // group_size] for i in rows]
    responses = [response_ids[i, : int(lengths[i])].tolist() for i in rows]
    input_ids, real = pad_rows([[*p, *r] for p, r in zip(prompts, responses, strict=True)])
    starts = torch.tensor([len(p) for p in prompts])
    return input_ids, real & (torch.arange(input_ids.shape[1])[None, :] >= starts[:, None])


def micro_batches(batch: PolicyBatch, rows: Tensor, token_budget: int) -> list[MicroBatch]:
    """The given rows as padded micro-batches of similar length.

    Args:
        batch: the policy batch, on the CPU.
        rows: int64, rows to train on.
        token_budget: most padded tokens (prompt and response) of one micro-batch.
    """
    lengths = batch.response_mask.sum(dim=1)
    prompts, group_size, teacher = batch.prompt_ids, batch.group_size, _teacher_prompts(batch)
    if teacher is not None:
        # The teacher's forward pass shares the budget, and its prompts are the longer ones.
        prompts = [max(prompts[i // group_size], ids, key=len) for i, ids in enumerate(teacher)]
        group_size = 1
    groups = row_groups(prompts, group_size, lengths, rows, token_budget)
    return [_micro_batch(batch, group, lengths, teacher) for group in groups]


def idle_micro_batch(batch: PolicyBatch) -> MicroBatch:
    """A micro-batch without response tokens: its gradient is zero, but every rank runs it."""
    micro = _micro_batch(batch, [0], batch.response_mask.sum(dim=1), _teacher_prompts(batch))
    return replace(
        micro,
        sequence_mask=torch.zeros_like(micro.sequence_mask),
        response_mask=torch.zeros_like(micro.response_mask),
        advantages=torch.zeros_like(micro.advantages),
        kl_coef=0.0,
        teacher_sequence_mask=None
        if micro.teacher_sequence_mask is None
        else torch.zeros_like(micro.teacher_sequence_mask),
    )


def _teacher_prompts(batch: PolicyBatch) -> list[TokenIds] | None:
    """The teacher's prompt of each row; None without a teacher.

    A row that has none is never trained on, but may be padding for an idle pass: it keeps its own prompt.
    """
    if batch.teacher_prompt_ids is None:
        return None
    return [ids or batch.prompt_ids[i // batch.group_size] for i, ids in enumerate(batch.teacher_prompt_ids)]


def _micro_batch(
    batch: PolicyBatch, rows: list[int], lengths: Tensor, teacher: list[TokenIds] | None
) -> MicroBatch:
    input_ids, sequence_mask = pack(batch.prompt_ids, batch.group_size, batch.response_ids, lengths, rows)
    select = torch.tensor(rows)
    width = int(lengths[select].max())
    teacher_input_ids = teacher_sequence_mask = None
    if teacher is not None:
        teacher_input_ids, teacher_sequence_mask = pack(teacher, 1, batch.response_ids, lengths, rows)
    return MicroBatch(
        input_ids=input_ids,
        sequence_mask=sequence_mask,
        response_mask=batch.response_mask[select, :width],
        old_logprobs=batch.old_logprobs[select, :width],
        advantages=batch.advantages[select, :width],
        ref_logprobs=None if batch.ref_logprobs is None else batch.ref_logprobs[select, :width],
        kl_coef=batch.kl_coef,
        teacher_input_ids=teacher_input_ids,
        teacher_sequence_mask=teacher_sequence_mask,
        value_targets=None if batch.value_targets is None else batch.value_targets.rows(select, width),
    )
