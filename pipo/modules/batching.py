"""Split a batch into mini-batches (one optimiser step) and micro-batches (one backward pass)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pipo.functional.token_balance import RowCost, token_shares
from pipo.lm.packing import pack
from pipo.modules.objectives.base import MicroBatch
from pipo.records.batches import PolicyBatch
from pipo.records.rollouts import TokenIds

# Attention holds whole rows, prompts and all (and padding, at most half as much again), where everything else
# in a layer holds packed tokens.
ATTENTION_SHARE = 2


def mini_batches(rows: int, size: int) -> list[Tensor]:
    """Consecutive row indices, ``size`` at a time; the last may be shorter."""
    return list(torch.arange(rows).split(size))


def row_groups(
    prompt_ids: Sequence[TokenIds],
    group_size: int,
    lengths: Tensor,
    rows: Tensor,
    token_budget: int,
    teacher: Sequence[TokenIds] | None = None,
) -> list[list[int]]:
    """Split rows into groups for one forward pass each, the responses to a prompt together.

    Args:
        prompt_ids: B prompts.
        group_size: G.
        lengths: int64 [N], response lengths.
        rows: int64, the rows to split.
        token_budget: most tokens of one group, a prompt counted once; ``ATTENTION_SHARE`` times as many when
            it is counted with every response. A longer row gets a group of its own.
        teacher: N prompts of a teacher, whose rows are to stay within the budget as well.

    Example:
        Three prompts of 4 tokens with two responses each, and a budget of 20. With its prompt counted once a
        pair costs 4 + 2 + 2 = 8, 4 + 6 + 1 = 11 and 4 + 3 + 3 = 10 tokens. Pairs stand by their longest
        response, 2, 3, 6: the first and the third pair are 18 tokens, and the second would exceed 20.

        >>> lengths = torch.tensor([2, 2, 6, 1, 3, 3])
        >>> row_groups([(7,) * 4] * 3, 2, lengths, torch.arange(6), token_budget=20)
        [[0, 1, 4, 5], [2, 3]]

        At 11 no two pairs fit, and at 10 the second pair is split, so that its prompt is read twice.

        >>> row_groups([(7,) * 4] * 3, 2, lengths, torch.arange(6), token_budget=11)
        [[0, 1], [4, 5], [2, 3]]
        >>> row_groups([(7,) * 4] * 3, 2, lengths, torch.arange(6), token_budget=10)
        [[0, 1], [4, 5], [3], [2]]
    """
    return grouped(sized_rows(prompt_ids, group_size, lengths, rows, teacher), token_budget)


class SizedRow(NamedTuple):
    """A row of a batch, and how many tokens it brings to a forward pass."""

    place: int
    """Number of the row in the batch."""
    prompt: int
    """Number of its prompt."""
    prompt_tokens: int
    """Tokens of its prompt."""
    response_tokens: int
    """Tokens of its response."""
    teacher_tokens: int
    """Tokens of the teacher's prompt and the response; 0 without a teacher."""

    @property
    def whole(self) -> int:
        """Tokens of prompt and response."""
        return self.prompt_tokens + self.response_tokens

    @property
    def cost(self) -> RowCost:
        """What training on it costs. The teacher has no backward pass, which is two thirds of the work."""
        return RowCost(self.prompt, self.prompt_tokens, self.response_tokens + self.teacher_tokens // 3)


def sized_rows(
    prompt_ids: Sequence[TokenIds],
    group_size: int,
    lengths: Tensor,
    rows: Tensor,
    teacher: Sequence[TokenIds] | None,
) -> list[SizedRow]:
    """Sizes of the given rows; the arguments are those of :func:`row_groups`."""
    return [
        SizedRow(
            place=i,
            prompt=i // group_size,
            prompt_tokens=len(prompt_ids[i // group_size]),
            response_tokens=int(lengths[i]),
            teacher_tokens=0 if teacher is None else len(teacher[i]) + int(lengths[i]),
        )
        for i in rows.tolist()
    ]


def grouped(rows: Sequence[SizedRow], token_budget: int) -> list[list[int]]:
    """Places of the rows of each group; see :func:`row_groups`."""
    longest: dict[int, int] = {}
    for row in rows:
        longest[row.prompt] = max(longest.get(row.prompt, 0), row.response_tokens)
    # Prompts whose responses are of similar length stand together, as attention pads them.
    ordered = sorted(rows, key=lambda row: (longest[row.prompt], row.prompt, row.response_tokens, row.place))
    groups = _filled(ordered, token_budget)
    if len(groups) > 1:
        # As few again, but none of them small: a pass has a cost of its own.
        share = -(-sum(_tokens(group) for group in groups) // len(groups))
        even = _filled(ordered, min(token_budget, share + max(row.whole for row in rows)))
        groups = even if len(even) == len(groups) else groups
    return [sorted(row.place for row in group) for group in groups]


def _filled(rows: Sequence[SizedRow], token_budget: int) -> list[list[SizedRow]]:
    """The rows in their order, in groups that are filled one after another."""
    groups: list[list[SizedRow]] = []
    tokens = attended = taught = 0
    for row in rows:
        # Rows of a prompt stand side by side.
        shared = bool(groups) and groups[-1][-1].prompt == row.prompt
        tokens += row.response_tokens if shared else row.whole
        attended += row.whole
        taught += row.teacher_tokens
        full = max(tokens, taught) > token_budget or attended > ATTENTION_SHARE * token_budget
        if full or not groups:
            groups.append([])
            tokens = attended = row.whole
            taught = row.teacher_tokens
        groups[-1].append(row)
    return groups


def _tokens(group: Sequence[SizedRow]) -> int:
    """Tokens of a group, a prompt counted once."""
    prompts = {row.prompt: row.prompt_tokens for row in group}
    return sum(prompts.values()) + sum(row.response_tokens for row in group)


def even_groups(
    rows: Sequence[SizedRow], groups: list[list[int]], token_budget: int, passes: int
) -> list[list[int]]:
    """The rows in so many groups of equal cost, for processes that wait for each other after every pass.

    Rows of different length stand together then, which takes attention more calls, but no more padding.

    Args:
        rows: the rows.
        groups: places of the rows in each of at most so many groups, which stay if equal ones are too large.
        token_budget: see :func:`row_groups`.
        passes: how many forward passes the process makes.

    Returns:
        Places of the rows of each group, those with most tokens first; at most ``passes`` groups.
    """
    shares = token_shares([row.cost for row in rows], passes)
    even = [[rows[i] for i in share] for share in shares if share]
    if not all(len(group) == 1 or _fits(group, token_budget) for group in even):
        placed = {row.place: row for row in rows}
        even = [[placed[place] for place in group] for group in groups]
    return [[row.place for row in group] for group in sorted(even, key=_tokens, reverse=True)]


def _fits(group: Sequence[SizedRow], token_budget: int) -> bool:
    """Whether a group stays within the budget."""
    taught, attended = sum(row.teacher_tokens for row in group), sum(row.whole for row in group)
    return max(_tokens(group), taught) <= token_budget and attended <= ATTENTION_SHARE * token_budget


def batch_rows(batch: PolicyBatch, rows: Tensor) -> list[SizedRow]:
    """Sizes of some rows of a batch."""
    lengths = batch.response_mask.sum(dim=1)
    return sized_rows(batch.prompt_ids, batch.group_size, lengths, rows, _teacher_prompts(batch))


def micro_batches(batch: PolicyBatch, rows: Tensor, token_budget: int) -> list[MicroBatch]:
    """The given rows as micro-batches.

    Args:
        batch: the policy batch, on the CPU.
        rows: int64, rows to train on.
        token_budget: see :func:`row_groups`.
    """
    return group_micro_batches(batch, grouped(batch_rows(batch, rows), token_budget))


def group_micro_batches(batch: PolicyBatch, groups: Sequence[Sequence[int]]) -> list[MicroBatch]:
    """Groups of rows of a batch, given by their places, as micro-batches."""
    lengths, teacher = batch.response_mask.sum(dim=1), _teacher_prompts(batch)
    return [_micro_batch(batch, group, lengths, teacher) for group in groups]


def idle_micro_batch(batch: PolicyBatch) -> MicroBatch:
    """A micro-batch without sampled tokens: its gradient is zero, but every rank runs it."""
    micro = _micro_batch(batch, [0], batch.response_mask.sum(dim=1), _teacher_prompts(batch))
    return replace(
        micro,
        rows=micro.rows.without_targets(),
        sampled=torch.zeros_like(micro.sampled),
        advantages=torch.zeros_like(micro.advantages),
        kl_coef=0.0,
        teacher_rows=None if micro.teacher_rows is None else micro.teacher_rows.without_targets(),
    )


def _teacher_prompts(batch: PolicyBatch) -> list[TokenIds] | None:
    """The teacher's prompt of each row; None without a teacher.

    A row that has none is never trained on, but may be padding for an idle pass: it keeps its own prompt.
    """
    if batch.teacher_prompt_ids is None:
        return None
    return [ids or batch.prompt_ids[i // batch.group_size] for i, ids in enumerate(batch.teacher_prompt_ids)]


def _micro_batch(
    batch: PolicyBatch, rows: Sequence[int], lengths: Tensor, teacher: list[TokenIds] | None
) -> MicroBatch:
    select = torch.tensor(rows)
    width = int(lengths[select].max())
    return MicroBatch(
        rows=pack(
            batch.prompt_ids,
            batch.group_size,
            batch.response_ids,
            lengths,
            batch.sampled,
            rows,
            batch.kept,
        ),
        sampled=batch.sampled[select, :width],
        old_logprobs=batch.old_logprobs[select, :width],
        advantages=batch.advantages[select, :width],
        ref_logprobs=None if batch.ref_logprobs is None else batch.ref_logprobs[select, :width],
        kl_coef=batch.kl_coef,
        teacher_rows=None
        if teacher is None
        else pack(teacher, 1, batch.response_ids, lengths, batch.sampled, rows, batch.kept),
        value_targets=None if batch.value_targets is None else batch.value_targets.rows(select, width),
        plain_minimum=batch.plain_minimum,
        weight=None if batch.importance is None else batch.importance[select, :width],
    )
