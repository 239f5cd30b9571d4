"""Sequence packing for one forward pass: no padding, and each prompt once for all of its responses.

In the transformers that are trained here everything but attention looks at one token at a time
(:func:`~pipo.lm.attention.check_packing` makes sure). So the tokens are laid end to end, those of a
prompt once, and only attention puts the rows together again (:class:`RowLayout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipo.records.kept import KeptSets, KeptTokens
from pipo.records.movable import Movable
from pipo.records.rollouts import TokenIds, pad_rows

# Rows of one call of attention: the longest is at most so many times as long as the shortest. Less would mean
# more calls, more would mean more padding.
LENGTH_RATIO = 1.5


@dataclass(frozen=True, kw_only=True)
class Gather(Movable):
    """Copies packed tokens to where ``index`` asks for them; the backward pass adds the copies up."""

    index: Tensor
    """int64, of any shape: which token; 0 where there is none (padding)."""
    places: Tensor
    """int64 [real entries], where in the flattened ``index`` a token is pointed at, token by token."""
    offsets: Tensor
    """int64 [tokens], where each token's entries begin in ``places``."""

    @staticmethod
    def of(index: Tensor, real: Tensor, tokens: int) -> Gather:
        """The gather of an index into so many tokens, whose entries are real where the mask is True."""
        flat = real.flatten().nonzero()[:, 0]
        pointed = index.flatten()[flat]
        counts = torch.bincount(pointed, minlength=tokens)
        order = pointed.argsort(stable=True)
        return Gather(index=index, places=flat[order], offsets=counts.cumsum(0) - counts)

    def __call__(self, values: Tensor) -> Tensor:
        """[tokens, width] -> [entries of ``index``, width]; padding holds anything, and has no gradient."""
        taken: Tensor = _Gather.apply(values, self.index.flatten(), self.places, self.offsets)
        return taken

    def firsts(self) -> tuple[Tensor, Tensor]:
        """The tokens that are pointed at, and the first place of each."""
        ends = torch.cat([self.offsets[1:], torch.tensor([len(self.places)])])
        used = (ends > self.offsets).nonzero()[:, 0]
        return used, self.places[self.offsets[used]]


class _Gather(torch.autograd.Function):
    """The library's gradient adds up in bfloat16 and, on a GPU, in any order; this, in float32 in order."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, places: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(places, offsets)
        return values.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        places, offsets = ctx.saved_tensors
        if len(places) == 0:
            return grad.new_zeros(len(offsets), grad.shape[1]), None, None, None
        return F.embedding_bag(places, grad.contiguous(), offsets, mode="sum"), None, None, None


def similar_lengths(ordered: Sequence[int]) -> list[slice]:
    """Rows of one call of attention each, by their lengths, which are in order.

    Example:
        >>> similar_lengths([10, 12, 15, 16, 40])
        [slice(0, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    starts = [0]
    for at, length in enumerate(ordered):
        if length > LENGTH_RATIO * ordered[starts[-1]]:
            starts.append(at)
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(ordered)], strict=True)]


@dataclass(frozen=True, kw_only=True)
class RowLayout(Movable):
    """How attention finds the rows among the packed tokens."""

    blocks: tuple[Gather, ...]
    """[n, T] each, right-padded rows of similar length; every row is in one."""
    back: Tensor
    """int64 [tokens], where each packed token is among the flattened entries of all blocks."""

    @staticmethod
    def of(rows: Sequence[Sequence[int]], tokens: int) -> RowLayout:
        """The layout of rows that are given by where their tokens are among so many."""
        ordered = sorted(rows, key=len)
        together = similar_lengths([len(row) for row in ordered])
        blocks = [Gather.of(*pad_rows(ordered[part]), tokens) for part in together]
        back, before = torch.empty(tokens, dtype=torch.int64), 0
        for block in blocks:
            # A prompt stands in several rows, and its hidden states are the same in all of them.
            used, first = block.firsts()
            back[used] = first + before
            before += block.index.numel()
        return RowLayout(blocks=tuple(blocks), back=back)


@dataclass(frozen=True, kw_only=True)
class PackedRows(Movable):
    """What a model reads to score some responses, and where the scores are."""

    input_ids: Tensor
    """int64 [tokens], each prompt once and each response but for its last token, which is never an input."""
    position_ids: Tensor
    """int64 [tokens], place of the token in its row."""
    layout: RowLayout
    """How attention puts the rows together again."""
    predecessors: Gather
    """[M], the packed token before each sampled token: its hidden state predicts that one."""
    targets: Tensor
    """int64 [M], the sampled tokens, row after row."""
    kept: KeptSets | None = None
    """The tokens that could have been drawn in place of each; None for the whole vocabulary."""

    def without_targets(self) -> PackedRows:
        """The same rows with no token to score."""
        none = torch.empty(0, dtype=torch.int64)
        return replace(self, predecessors=Gather.of(none, none, len(self.input_ids)), targets=none, kept=None)


def pack(
    prompt_ids: Sequence[TokenIds],
    group_size: int,
    response_ids: Tensor,
    lengths: Tensor,
    sampled: Tensor,
    rows: Sequence[int],
    kept: KeptTokens | None = None,
) -> PackedRows:
    """Rows of a batch for one forward pass: every token is read, the sampled ones are scored.

    Args:
        prompt_ids: B prompts.
        group_size: G; row i answers prompt i // G.
        response_ids: int64 [N, R], right-padded.
        lengths: int64 [N], tokens of each response.
        sampled: bool [N, R], the tokens to score.
        rows: which ones, in the order of the scores.
        kept: the sampling mask of all N responses; None for the whole vocabulary.

    Example:
        Two responses, (8, 9) and (7, 3, 4), to the prompt (5, 6). The prompt is read once, and the last token
        of each response, 9 and 4, only has to be predicted. Token 8 is at place 2 of the packed tokens and
        predicts 9; both responses begin behind place 1, the prompt's last token.

        >>> lengths, width = torch.tensor([2, 3]), torch.arange(3)
        >>> responses = torch.tensor([[8, 9, 0], [7, 3, 4]])
        >>> packed = pack([(5, 6)], 2, responses, lengths, width < lengths[:, None], [0, 1])
        >>> packed.input_ids.tolist(), packed.position_ids.tolist()
        ([5, 6, 8, 7, 3], [0, 1, 2, 2, 3])
        >>> packed.targets.tolist(), packed.predecessors.index.tolist()
        ([8, 9, 7, 3, 4], [1, 2, 1, 3, 4])

        Attention sees 5 6 8 and 5 6 7 3: two rows of one block, the first with a 0 of padding.

        >>> packed.layout.blocks[0].index.tolist()
        [[0, 1, 2, 0], [0, 1, 3, 4]]
    """
    ids: list[int] = []
    positions: list[int] = []

    def append(tokens: Sequence[int], position: int) -> range:
        start = len(ids)
        ids.extend(tokens)
        positions.extend(range(position, position + len(tokens)))
        return range(start, len(ids))

    chosen = torch.tensor(rows, dtype=torch.int64)
    responses, ends = response_ids[chosen], lengths[chosen]
    prompts: dict[TokenIds, range] = {}
    sequences: list[list[int]] = []
    starts: list[tuple[int, int]] = []  # prompt's last token and response, of each row
    for row, response, end in zip(rows, responses.tolist(), ends.tolist(), strict=True):
        prompt = prompt_ids[row // group_size]
        if prompt not in prompts:
            prompts[prompt] = append(prompt, 0)
        own = append(response[: max(0, end - 1)], len(prompt))
        sequences.append([*prompts[prompt], *own])
        starts.append((prompts[prompt][-1], own.start))
    scored = sampled[chosen] & (torch.arange(responses.shape[1]) < ends[:, None])
    of_row, place = scored.nonzero(as_tuple=True)
    last_of_prompt, first = torch.tensor(starts, dtype=torch.int64).view(-1, 2)[of_row].unbind(1)
    predecessors = torch.where(place == 0, last_of_prompt, first + place - 1)
    return PackedRows(
        input_ids=torch.tensor(ids, dtype=torch.int64),
        position_ids=torch.tensor(positions, dtype=torch.int64),
        layout=RowLayout.of(sequences, len(ids)),
        predecessors=Gather.of(predecessors, torch.ones(len(predecessors)), len(ids)),
        targets=responses[scored],
        kept=None if kept is None else kept.sets(rows, sampled),
    )
