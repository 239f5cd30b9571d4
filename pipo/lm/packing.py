"""Sequence packing for one forward pass: no padding, and what several rows begin with once for all of them.

In the transformers that are trained here everything but attention looks at one token at a time
(:func:`~pipo.lm.attention.check_packing` makes sure). So the tokens are laid end to end, and only attention
puts the rows together again (:class:`RowLayout`). What a model makes of a token depends on the tokens before
it alone: rows that begin alike, with the same prompt and maybe the same first words, share those tokens, and
their gradients add up.
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
    """[n, T] each, right-padded rows of similar length; every token is in one of them."""
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
            # A shared token stands in several rows, and its hidden states are the same in all of them.
            used, first = block.firsts()
            back[used] = first + before
            before += block.index.numel()
        return RowLayout(blocks=tuple(blocks), back=back)


@dataclass(frozen=True, kw_only=True)
class PackedRows(Movable):
    """What a model reads to score some responses, and where the scores are."""

    input_ids: Tensor
    """int64 [tokens], prompts and responses but for their last tokens, which are never an input; what rows
    begin with in common stands there once.
    """
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
        Two responses, (8, 9, 2) and (8, 3, 4), to the prompt (5, 6). What both begin with, 5 6 8, is read
        once, and the last token of each, 2 and 4, only has to be predicted. Token 8 is at place 2 of the
        packed tokens, and predicts 9 in one row and 3 in the other; it is predicted by place 1, the prompt's
        last token, once for each row.

        >>> responses = torch.tensor([[8, 9, 2], [8, 3, 4]])
        >>> packed = pack([(5, 6)], 2, responses, torch.tensor([3, 3]), torch.ones(2, 3, dtype=bool), [0, 1])
        >>> packed.input_ids.tolist(), packed.position_ids.tolist()
        ([5, 6, 8, 9, 3], [0, 1, 2, 3, 3])
        >>> packed.targets.tolist(), packed.predecessors.index.tolist()
        ([8, 9, 2, 8, 3, 4], [1, 2, 3, 1, 2, 4])

        Attention sees 5 6 8 9 and 5 6 8 3.

        >>> packed.layout.blocks[0].index.tolist()
        [[0, 1, 2, 3], [0, 1, 2, 4]]
    """
    chosen = torch.tensor(rows, dtype=torch.int64)
    responses, ends = response_ids[chosen], lengths[chosen]
    tokens = _SharedTokens()
    prompts: dict[TokenIds, list[int]] = {}
    sequences: list[list[int]] = []
    predecessors: list[int] = []
    for row, response, end in zip(rows, responses.tolist(), ends.tolist(), strict=True):
        prompt = prompt_ids[row // group_size]
        if prompt not in prompts:
            prompts[prompt] = tokens.places(prompt, [])
        sequences.append(tokens.places(response[: max(0, end - 1)], prompts[prompt]))
        predecessors += sequences[-1][len(prompt) - 1 : len(prompt) - 1 + end]
    real = torch.arange(responses.shape[1]) < ends[:, None]
    scored = sampled[chosen] & real
    pointed = torch.tensor(predecessors, dtype=torch.int64)[scored[real]]
    count = len(tokens.ids)
    return PackedRows(
        input_ids=torch.tensor(tokens.ids, dtype=torch.int64),
        position_ids=torch.tensor(tokens.positions, dtype=torch.int64),
        layout=RowLayout.of(tokens.whole(sequences), count),
        predecessors=Gather.of(pointed, torch.ones(len(pointed)), count),
        targets=responses[scored],
        kept=None if kept is None else kept.sets(rows, sampled),
    )


class _SharedTokens:
    """Packed tokens, each once for all rows that are the same up to it."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        # Place of the token before each; -1: it is a row's first.
        self._before: list[int] = []
        # What does not stand right behind the token before it: its place by that one's place and itself.
        self._branches: dict[tuple[int, int], int] = {}

    def places(self, tokens: Sequence[int], behind: Sequence[int]) -> list[int]:
        """Where the tokens of a row are, from its first on; those that are not there yet are appended.

        Args:
            tokens: that follow.
            behind: places of the tokens before them.
        """
        found = list(behind)
        at, known = found[-1] if found else -1, 0
        for token in tokens:
            after = self._after(at, token)
            if after is None:
                break
            at, known = after, known + 1
            found.append(at)
        # Nothing follows a new token yet, so that all behind it are new, and need not be looked for.
        start, count = len(self.ids), len(tokens) - known
        if count:
            self._branches[at, tokens[known]] = start
            self.ids += tokens[known:]
            self.positions += range(len(found), len(found) + count)
            self._before += (at, *range(start, start + count - 1))
            found += range(start, start + count)
        return found

    def _after(self, at: int, token: int) -> int | None:
        """Place of a token that follows the one at a place; None where it is not there."""
        following = at + 1
        if following < len(self.ids) and self._before[following] == at and self.ids[following] == token:
            return following
        return self._branches.get((at, token))

    def whole(self, rows: Sequence[list[int]]) -> list[list[int]]:
        """The rows that no other goes on from, each once: every token is in one of them."""
        inner = set(self._before)
        return list({row[-1]: row for row in rows if row[-1] not in inner}.values())
