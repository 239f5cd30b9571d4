"""Self-distillation divergence over the vocabulary, blockwise, without keeping student or teacher logits.

Student and teacher logits of one response of 4,096 tokens take 2.3 GiB each at a vocabulary of 150,000,
and the divergence several times that. Both heads are therefore applied to a few rows at a time; the
backward pass computes each block again and adds to one gradient of the head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipo.functional.divergence import DistillationForm, distillation_divergence
from pipo.lm.logprobs import HeadGradient, head_logits, row_blocks


class _BlockwiseDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        form: DistillationForm,
        temperature: float,
    ) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        out = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        head = weight.to(hidden.dtype)
        for block in row_blocks(hidden.shape[0], 2 * head.shape[0], hidden.device):
            student = head_logits(hidden[block], head, temperature)
            teacher = head_logits(teacher_hidden[block], teacher_weight, temperature)
            out[block] = distillation_divergence(student, teacher, form)
        ctx.save_for_backward(hidden, weight, head, teacher_hidden, teacher_weight)
        ctx.form, ctx.temperature = form, temperature
        return out

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        hidden, weight, head, teacher_hidden, teacher_weight = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_head = HeadGradient()
        for block in row_blocks(hidden.shape[0], 2 * head.shape[0], hidden.device):
            rows = hidden[block]
            teacher = head_logits(teacher_hidden[block], teacher_weight, ctx.temperature)
            student = head_logits(rows, head, ctx.temperature).requires_grad_()
            with torch.enable_grad():
                divergence = distillation_divergence(student, teacher, ctx.form)
            (slope,) = torch.autograd.grad(divergence, student, grad[block])
            slope = (slope / ctx.temperature).to(head.dtype)
            grad_hidden[block] = slope @ head
            if ctx.needs_input_grad[1]:
                grad_head.add(slope, rows)
        grad_weight = grad_head.take(weight) if ctx.needs_input_grad[1] else None
        return grad_hidden, grad_weight, None, None, None, None


def blockwise_divergence(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    form: DistillationForm,
    temperature: float,
) -> Tensor:
    """:func:`~pipo.functional.divergence.distillation_divergence` of two heads, row by row.

    Args:
        hidden: [M, width], the student's final hidden states, one row per scored token; with gradient.
        weight: [V, width], the student's output head; with gradient; its products are in ``hidden``'s dtype.
        teacher_hidden: [M, teacher width], the teacher's on the same tokens; no gradient.
        teacher_weight: [V, teacher width]; no gradient, also when it is the tensor ``weight`` itself.
        form: which divergence.
        temperature: sampling temperature that defines both policies, > 0.

    Returns:
        [M], in nats; float32, or float64 for float64 hidden states.

    Raises:
        ValueError: when the temperature is not positive, or rows or vocabularies differ.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if len(hidden) != len(teacher_hidden):
        raise ValueError(f"teacher_hidden: expected {len(hidden)} rows, got {len(teacher_hidden)}")
    if len(weight) != len(teacher_weight):
        raise ValueError(f"teacher_weight: expected {len(weight)} tokens, got {len(teacher_weight)}")
    return _BlockwiseDivergence.apply(  # type: ignore[no-any-return]
        hidden, weight, teacher_hidden.detach(), teacher_weight.detach(), form, temperature
    )
