"""Log-probabilities of sampled tokens without keeping the [tokens, vocabulary] matrix.

At a vocabulary of 150,000 the logits of one response of 4,096 tokens take 2.3 GiB in float32. The head
is therefore applied to a few rows at a time; the backward pass computes each block of logits again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many logits in all, one block is faster than recomputing and small enough to keep (64 MiB).
SINGLE_BLOCK_LOGITS = 16 * 1024 * 1024
# Rows of logits held at a time beyond that.
BLOCK_ROWS = 64


class _BlockwiseLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        out = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            logits = F.linear(hidden[block], weight).float().div_(temperature)
            chosen = logits.gather(1, tokens[block, None])[:, 0]
            out[block] = chosen - logits.logsumexp(dim=1)
        ctx.save_for_backward(hidden, weight, tokens)
        ctx.temperature = temperature
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grad_outputs
        hidden, weight, tokens = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        for start in range(0, hidden.shape[0], BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            rows = hidden[block]
            # d log p(token) / d logits = (one-hot(token) - softmax) / temperature
            slope = F.linear(rows, weight).float().div_(ctx.temperature).softmax(dim=1).neg_()
            slope[torch.arange(len(rows), device=slope.device), tokens[block]] += 1
            slope.mul_(grad[block, None] / ctx.temperature)
            slope = slope.to(weight.dtype)
            grad_hidden[block] = slope @ weight
            grad_weight.addmm_(slope.t(), rows)
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
    if hidden.shape[0] * weight.shape[0] <= SINGLE_BLOCK_LOGITS:
        logits = F.linear(hidden, weight).float() / temperature
        return -F.cross_entropy(logits, tokens, reduction="none")
    return _BlockwiseLogprobs.apply(hidden, weight, tokens, temperature)  # type: ignore[no-any-return]
