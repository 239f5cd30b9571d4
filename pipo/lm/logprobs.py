"""Log-probabilities of sampled tokens without keeping the [tokens, vocabulary] logits.

At a vocabulary of 150,000 the logits of one response of 4,096 tokens take 2.3 GiB in float32. The head
is therefore applied to a few rows at a time. One block, the last, is kept for the backward pass, which
computes the others again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipo.functional.cut import keep_top
from pipo.records.cut import Cut
from pipo.records.kept import KeptSets

# Elements of a matrix of logits held at a time (128 MiB in float32); at least one row.
BLOCK_LOGITS = 32 * 1024 * 1024
# The same on a GPU (2 GiB). Every block reads and writes the whole gradient of the head once.
GPU_BLOCK_LOGITS = 512 * 1024 * 1024
# On a GPU a block has a multiple of so many rows: its matrix products go by tiles of this size.
GPU_TILE = 128
# Into so many parts a block is cut there where its softmax is needed in float32.
SOFTMAX_PARTS = 8
# Where a cut is looked for a block is smaller: beside its logits are their order and double sums.
CUT_MATRICES = 10


def on_gpu(device: torch.device) -> bool:
    """Whether products and softmax are a GPU's."""
    return device.type == "cuda"


def block_logits(device: torch.device) -> int:
    """Elements of a block on a device."""
    return GPU_BLOCK_LOGITS if on_gpu(device) else BLOCK_LOGITS


def row_blocks(rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    """Slices of rows whose logits fit into a block on a device."""
    tile = GPU_TILE if on_gpu(device) else 1
    size = max(tile, block_logits(device) // vocabulary // tile * tile)
    return [slice(start, start + size) for start in range(0, rows, size)]


def head_logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Logits in at least float32, as a matrix that nothing else holds."""
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1 else logits / temperature


def _powers_(logits: Tensor, peak: Tensor) -> Tensor:
    """Exponentials of the logits less their row's peak, in place: a block is the only matrix of its size.

    By way of 2: on a CPU, ``exp`` takes up to thirty times as long for results below the normal numbers.
    """
    return logits.sub_(peak[:, None]).mul_(math.log2(math.e)).exp2_()


class HeadGradient:
    """Sum over blocks of rows of the head's gradient; of several, in at least float32."""

    def __init__(self) -> None:
        self._total: Tensor | None = None

    def add(self, slope: Tensor, hidden: Tensor) -> None:
        """Add ``slope.T @ hidden``; slope [rows, V], hidden [rows, width]."""
        wide = torch.promote_types(slope.dtype, torch.float32)
        if slope.dtype != wide and on_gpu(slope.device):  # whose products of bfloat16 come out in float32
            if self._total is None:
                self._total = torch.mm(slope.t(), hidden, out_dtype=wide)
            else:
                torch.addmm(self._total, slope.t(), hidden, out_dtype=wide, out=self._total)
            return
        if self._total is None:
            self._total = slope.t() @ hidden
            return
        self._total = self._total.to(wide)
        if self._total.dtype == slope.dtype:
            self._total.addmm_(slope.t(), hidden)
            return
        # In slices: on a CPU no product of bfloat16 adds to float32, and a whole one is as large as the head.
        for part in row_blocks(slope.shape[1], hidden.shape[1], slope.device):
            self._total[part] += slope[:, part].t() @ hidden

    def take(self, weight: Tensor) -> Tensor:
        """The sum, as a gradient of ``weight``; zero when nothing was added."""
        return torch.zeros_like(weight) if self._total is None else self._total.to(weight.dtype)


class _BlockwiseLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        temperature: float,
        kept: KeptSets | None = None,
    ) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        out = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        # Largest logit, and sum of the exponentials below it.
        peak, total = torch.empty_like(out), torch.empty_like(out)
        head = weight.to(hidden.dtype)
        powers = None
        for block in row_blocks(hidden.shape[0], head.shape[0], hidden.device):
            del powers  # before the next block is computed
            logits = _kept_logits(head_logits(hidden[block], head, temperature), kept, block)
            chosen = logits.gather(1, tokens[block, None])[:, 0]
            peak[block] = logits.amax(dim=1)
            powers = _powers_(logits, peak[block])
            total[block] = powers.sum(dim=1)
            out[block] = (chosen - peak[block]) - total[block].log()
            del logits
        ctx.save_for_backward(hidden, weight, head, tokens, peak, total)
        # Not a saved tensor, because the backward pass gives it up before it computes the other blocks.
        ctx.last_powers = powers
        ctx.temperature, ctx.kept = temperature, kept
        return out

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        hidden, weight, head, tokens, peak, total = ctx.saved_tensors
        powers, ctx.last_powers = ctx.last_powers, None

        def slope(block: slice) -> Tensor:
            nonlocal powers
            if powers is None:
                logits = _kept_logits(head_logits(hidden[block], head, ctx.temperature), ctx.kept, block)
                powers = _powers_(logits, peak[block])
                del logits
            # Before the cast: .999 is 1 in bfloat16, and its distance from 1 is the gradient.
            powers[torch.arange(len(powers), device=powers.device), tokens[block]] -= total[block]
            made, powers = powers.to(head.dtype), None
            return made

        # d log p(token) / d logits = (one-hot(token) - powers / total) / temperature.
        factor = -(grad / (ctx.temperature * total))[:, None]
        return _gradients(ctx, hidden, weight, head, factor, slope)


class _FusedLogprobs(torch.autograd.Function):
    """The same for a GPU, whose softmax reads logits of any dtype, and sums in float32, by itself."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        temperature: float,
        kept: KeptSets | None = None,
    ) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        out = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        head, logits = weight.to(hidden.dtype), None
        for block in row_blocks(hidden.shape[0], head.shape[0], hidden.device):
            logits = None  # before the next block is computed
            logits = _fused_logits(hidden[block], head, temperature, kept, block)
            out[block] = _log_softmax_at(logits, tokens[block], dtype)
        ctx.save_for_backward(hidden, weight, head, tokens, out)
        # Not a saved tensor, because the backward pass gives it up before it computes the other blocks.
        ctx.last_logits = logits
        ctx.temperature, ctx.kept = temperature, kept
        return out

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        hidden, weight, head, tokens, out = ctx.saved_tensors
        logits, ctx.last_logits = ctx.last_logits, None
        # p - 1 of the token itself: .999 is 1 in bfloat16, and its distance from 1 is the gradient.
        beyond = out.expm1()[:, None].to(head.dtype)

        def slope(block: slice) -> Tensor:
            nonlocal logits
            if logits is None:
                logits = _fused_logits(hidden[block], head, ctx.temperature, ctx.kept, block)
            made, logits = logits.softmax(1).to(head.dtype), None
            return made.scatter_(1, tokens[block, None], beyond[block])

        return _gradients(ctx, hidden, weight, head, -(grad / ctx.temperature)[:, None], slope)


def _gradients(
    ctx: Any, hidden: Tensor, weight: Tensor, head: Tensor, factor: Tensor, slope: Callable[[slice], Tensor]
) -> tuple[Tensor | None, ...]:
    """What a backward pass over the blocks of a head gives back.

    Args:
        ctx: of the pass; says which gradients are needed.
        hidden: [M, width].
        weight: [V, width].
        head: the weight in the dtype of the products.
        factor: [M, 1], of each row's slope. It is applied to the narrow matrices, so that the wide one is
            passed over as rarely as possible.
        slope: of a block's logits, but for the factor; asked from the last block on, which is at hand.
    """
    scaled = (hidden * factor).to(head.dtype)
    grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
    grad_head = HeadGradient()
    for block in reversed(row_blocks(hidden.shape[0], head.shape[0], hidden.device)):
        made = slope(block)
        if grad_hidden is not None:
            grad_hidden[block] = (made @ head) * factor[block]
        if ctx.needs_input_grad[1]:
            grad_head.add(made, scaled[block])
        del made  # before the next block is computed
    grad_weight = grad_head.take(weight) if ctx.needs_input_grad[1] else None
    return grad_hidden, grad_weight, None, None, None


def _log_softmax_at(logits: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Of each row one entry. In parts, each of which is held twice in float32."""
    size = max(1, len(logits) // SOFTMAX_PARTS)
    parts = zip(logits.split(size), tokens.split(size), strict=True)
    return torch.cat([part.log_softmax(1, dtype=dtype).gather(1, at[:, None])[:, 0] for part, at in parts])


def _fused_logits(
    rows: Tensor, head: Tensor, temperature: float, kept: KeptSets | None, block: slice
) -> Tensor:
    """Logits of a block of rows in the dtype of the product, or in float32 where they are divided."""
    logits = F.linear(rows, head) if temperature == 1 else head_logits(rows, head, temperature)
    return _kept_logits(logits, kept, block)


def _kept_logits(logits: Tensor, kept: KeptSets | None, block: slice) -> Tensor:
    """The logits of a block of rows, in place, at minus infinity for tokens outside of the sampling mask."""
    if kept is None:
        return logits
    return logits.masked_fill_(~kept.mask(block.start, *logits.shape), float("-inf"))


def token_logprobs(
    hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, kept: KeptSets | None = None
) -> Tensor:
    """Log softmax(hidden @ weight.T / temperature) of the given tokens, over all tokens or those kept.

    Args:
        hidden: [M, width], final hidden states, one row per scored token.
        weight: [V, width], the output head; its products are in the dtype of ``hidden``.
        tokens: int64 [M].
        temperature: sampling temperature that defines the policy, > 0.
        kept: sampling mask, with each of the given tokens in its own set; None for the whole vocabulary.

    Returns:
        [M]; float32, or float64 for float64 hidden states.
    """
    # Autograd keeps the logits and their log-softmax instead of computing them again: faster, two matrices.
    if 2 * hidden.shape[0] * weight.shape[0] <= block_logits(hidden.device):
        logits = head_logits(hidden, weight.to(hidden.dtype), temperature)
        if kept is not None:
            logits = logits.masked_fill(~kept.mask(0, *logits.shape), float("-inf"))
        return -F.cross_entropy(logits, tokens, reduction="none")
    blockwise = _FusedLogprobs if on_gpu(hidden.device) else _BlockwiseLogprobs
    return blockwise.apply(hidden, weight, tokens, temperature, kept)  # type: ignore[no-any-return]


@torch.no_grad()
def cut_logprobs(
    hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, cut: Cut
) -> tuple[Tensor, Tensor, Tensor]:
    """What a cut keeps where each token was drawn, and the token's log-probability among that.

    A given token is kept in any case: it was drawn, and only rounding can have it outside.

    Args:
        hidden: see :func:`token_logprobs`, like the next three.
        weight: the output head.
        tokens: int64 [M].
        temperature: of sampling.
        cut: top-p, top-k and min-p.

    Returns:
        [M] log-probabilities; int32 [T] kept tokens, set after set; int32 [M], how many each set has.
    """
    head, found, ids, counts = weight.to(hidden.dtype), [], [], []
    for block in row_blocks(hidden.shape[0], CUT_MATRICES * head.shape[0], hidden.device):
        logits = head_logits(hidden[block], head, temperature)
        keep = keep_top(logits.softmax(dim=1), cut) > 0
        keep.scatter_(1, tokens[block, None], True)
        logits.masked_fill_(~keep, float("-inf"))
        found.append(-F.cross_entropy(logits, tokens[block], reduction="none"))
        ids.append(keep.nonzero()[:, 1].int())
        counts.append(keep.sum(dim=1).int())
    if not found:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        return hidden.new_empty(0, dtype=dtype), tokens.int(), tokens.int()
    return torch.cat(found), torch.cat(ids), torch.cat(counts)
