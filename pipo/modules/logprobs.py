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


def _block_logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """A float32 matrix of its own, to be overwritten."""
    logits = F.linear(hidden, weight).float()
    return logits if temperature == 1 else logits.div_(temperature)


class _BlockwiseLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        out = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        normaliser = torch.empty_like(out)
        for block in row_blocks(hidden.shape[0], weight.shape[0]):
            logits = _block_logits(hidden[block], weight, temperature)
            chosen = logits.gather(1, tokens[block, None])[:, 0]
            # logsumexp in place: the library's own makes two more matrices of this size.
            peak = logits.amax(dim=1)
            normaliser[block] = logits.sub_(peak[:, None]).exp_().sum(dim=1).log_() + peak
            out[block] = chosen - normaliser[block]
        ctx.save_for_backward(hidden, weight, tokens, normaliser)
        ctx.temperature = temperature
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grad_outputs
        hidden, weight, tokens, normaliser = ctx.saved_tensors
        # d log p(token) / d logits = (one-hot(token) - softmax) / temperature. The factor of each row and the
        # one-hot part are applied to the narrow matrices, so the wide one is passed over twice only.
        factor = (grad / ctx.temperature)[:, None]
        scaled = (hidden * factor).to(weight.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        for block in row_blocks(hidden.shape[0], weight.shape[0]):
            logits = _block_logits(hidden[block], weight, ctx.temperature)
            probs = logits.sub_(normaliser[block, None]).exp_().to(weight.dtype)
            grad_hidden[block] = (weight[tokens[block]] - probs @ weight) * factor[block]
            grad_weight.addmm_(probs.t(), scaled[block], alpha=-1)
            del logits, probs  # before the next block is computed
        grad_weight.index_add_(0, tokens, scaled)
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
        logits = F.linear(hidden, weight).float() / temperature
        return -F.cross_entropy(logits, tokens, reduction="none")
    return _BlockwiseLogprobs.apply(hidden, weight, tokens, temperature)  # type: ignore[no-any-return]
