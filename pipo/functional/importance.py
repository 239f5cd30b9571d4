"""Truncated importance sampling: correct for a sampler whose probabilities differ from the policy's."""

from __future__ import annotations

import torch
from torch import Tensor

from pipo.records.options import Cap, CorrectionLevel, Options


class ImportanceCorrection(Options):
    """Truncated importance sampling between sampler and trainer."""

    level: CorrectionLevel
    """One weight per token, one per response, or none."""
    cap: Cap
    """No weight is larger."""


def importance_weights(
    trainer: Tensor, sampler: Tensor, mask: Tensor, correction: ImportanceCorrection
) -> Tensor:
    """Weight w = min(pi_trainer / pi_sampler, cap), of each token or of the product over each response.

    Both are the same policy on paper; another kernel or precision makes them differ, so that responses are
    drawn from pi_sampler while the gradient is taken as if pi_trainer had drawn them. The weight multiplies
    the policy loss and carries no gradient. Truncation: Ionides, "Truncated importance sampling", Journal of
    Computational and Graphical Statistics 17(2), 2008. Between sampler and trainer: Yao et al., "Your
    efficient RL framework secretly brings you off-policy RL training", 2025. Where the two agree the weight
    is exactly 1.

    Args:
        trainer: [N, R], the trainer's log-probabilities of the sampled tokens.
        sampler: [N, R], the sampler's.
        mask: bool [N, R], the sampled tokens.
        correction: level and cap.

    Returns:
        [N, R], 0 on all other tokens.
    """
    gap = torch.where(mask, trainer - sampler, torch.zeros_like(trainer))
    if correction.level == "none":
        gap = torch.zeros_like(gap)
    if correction.level == "sequence":
        gap = gap.sum(dim=1, keepdim=True).expand_as(gap)
    return truncated_ratio(gap, torch.zeros_like(gap), correction.cap) * mask


@torch.no_grad()
def truncated_ratio(logprobs: Tensor, old_logprobs: Tensor, cap: float) -> Tensor:
    """min(pi / pi_old, cap) of every token, without gradient; the exponent is kept within +-20.

    Args:
        logprobs: any shape.
        old_logprobs: the same shape.
        cap: no ratio is larger.
    """
    return (logprobs - old_logprobs).clamp(-20.0, 20.0).exp().clamp(max=cap)
