"""Log-probabilities of sampled tokens without keeping the [tokens, vocabulary] matrix.

At a vocabulary of 150,000 the logits of one response of 4,096 tokens take 2.3 GiB in float32. The head
is therefore applied to a few rows at a time; the backward pass computes each block of logits again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of a matrix of logits held at a time (128 MiB in float32); at least one row.
BLOCK_LOGITS = 32 * 1024 * 1024


def row_blocks(rows: int, vocabulary: int) -> list[slice]:
    """Slices of rows whose logits fit into a block."""
    size = max(1, BLOCK_LOGITS // vocabulary)
    return [slice(start, start + size) for start in range(0, rows, size)]


def head_logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Logits in at least float32, as a matrix that nothing else holds."""
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1 else logits / temperature


class _BlockwiseLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        out = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        # Largest logit and log of the sum of exponentials below it: apart, so that neither rounds the other.
        peak, log_sum = torch.empty_like(out), torch.empty_like(out)
        for block in row_blocks(hidden.shape[0], weight.shape[0]):
            logits = head_logits(hidden[block], weight, temperature)
            chosen = logits.gather(1, tokens[block, None])[:, 0]
            peak[block] = logits.amax(dim=1)
            # In place: the library's logsumexp makes two more matrices of this size.
            log_sum[block] = logits.sub_(peak[block, None]).exp_().sum(dim=1).log_()
            out[block] = (chosen - peak[block]) - log_sum[block]
            del logits  # before the next block is computed
        ctx.save_for_backward(hidden, weight, tokens, peak, log_sum)
        ctx.temperature = temperature
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        hidden, weight, tokens, peak, log_sum = ctx.saved_tensors
        # d log p(token) / d logits = (one-hot(token) - softmax) / temperature. The factor of each row is
        # applied to the narrow matrices, so that the wide one is passed over as rarely as possible.
        factor = -(grad / ctx.temperature)[:, None]
        scaled = (hidden * factor).to(weight.dtype)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for block in row_blocks(hidden.shape[0], weight.shape[0]):
            logits = head_logits(hidden[block], weight, ctx.temperature)
            slope = logits.sub_(peak[block, None]).sub_(log_sum[block, None]).exp_()
            # Before the cast: .999 is 1 in bfloat16, and its distance from 1 is the gradient.
            slope[torch.arange(len(slope), device=slope.device), tokens[block]] -= 1
            slope = slope.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[block] = (slope @ weight) * factor[block]
            if grad_weight is not None:
                grad_weight.addmm_(slope.t(), scaled[block])
            del logits, slope
        return grad_hidden, grad_weight, None, None


def token_logprobs(hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log softmax(hidden @ weight.T / temperature) of the given tokens.

    Args:
        hidden: [M, width], final hidden states, one row per scored token.
        weight: [V, width], the output head.
        tokens: int64 [M].
        temperature: sampling temperature that defines the policy, > 0.

    Returns:
        float32 [M].
    """
    # Autograd keeps the logits and their log-softmax instead of computing them again: faster, two matrices.
    if 2 * hidden.shape[0] * weight.shape[0] <= BLOCK_LOGITS:
        return -F.cross_entropy(head_logits(hidden, weight, temperature), tokens, reduction="none")
    return _BlockwiseLogprobs.apply(hidden, weight, tokens, temperature)  # type: ignore[no-any-return]
