"""Importance sampling correction: truncate or mask, by token, sequence or geometric mean of the ratios.

Sampler and trainer are the same policy on paper; another kernel or precision makes them differ, so that
responses are drawn from pi_sampler while the gradient is taken as if pi_trainer had drawn them. With
d_k = log pi_trainer(y_k) - log pi_sampler(y_k) of the n sampled tokens of a response,

    token       rho_k = exp(d_k)
    sequence    rho_k = exp(sum_j d_j)
    geometric   rho_k = exp(sum_j d_j / n)

    truncated   min(max(rho, floor), cap)
    masked      rho where low <= rho <= high, else 0

Sources. Truncation: Ionides, "Truncated importance sampling", Journal of Computational and Graphical
Statistics 17(2), 2008; between sampler and trainer, Yao et al., "Your efficient RL framework secretly brings
you off-policy RL training", 2025. Masking of tokens: IcePop (Ling team, 2025); of sequences, and by the
geometric mean: Liu, Li et al., "When speed kills stability: demystifying RL collapse from the
training-inference mismatch", 2025. The same formulas are TRL's ``vllm_importance_sampling_mode``
(``token_truncate``, ``token_mask``, ``sequence_truncate``, ``sequence_mask``) and verl's ``rollout_is`` and
``rollout_rs`` (``token_k1``, ``seq_sum_k1``, ``seq_mean_k1``), as of TRL 1.16.0 and verl 0.9.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipo.records.correction import ImportanceCorrection, Rejection
from pipo.records.options import RatioLevel

# Nats that the exponent of a ratio is kept within, against overflow.
MAX_GAP = 20.0


def importance_weights(
    trainer: Tensor, sampler: Tensor, mask: Tensor, correction: ImportanceCorrection
) -> Tensor:
    """Weight of each token in the policy loss, without gradient; exactly 1 where both agree.

    Args:
        trainer: [N, R], the trainer's log-probabilities of the sampled tokens.
        sampler: [N, R], the sampler's.
        mask: bool [N, R], the sampled tokens.
        correction: level, bounds and rejection.

    Returns:
        [N, R], 0 on all other tokens and on those that are rejected.
    """
    gap = torch.where(mask, trainer - sampler, torch.zeros_like(trainer))
    weights = torch.ones_like(gap)
    if correction.level != "none":
        weights = _exp(ratio_exponents(gap, mask, correction.level))
        weights = weights.clamp(min=correction.floor or 0.0, max=correction.cap)
    if correction.rejection is not None:
        weights = weights * kept(gap, mask, correction.rejection)
    return weights * mask


def ratio_exponents(gap: Tensor, mask: Tensor, level: RatioLevel) -> Tensor:
    """Logarithm of the ratio that stands for each token, [N, R].

    Args:
        gap: [N, R], log pi_trainer - log pi_sampler, 0 on tokens that were not sampled.
        mask: bool [N, R], the sampled tokens.
        level: of which ratio.
    """
    if level == "token":
        return gap
    total = gap.sum(dim=1, keepdim=True)
    if level == "geometric":
        total = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return total.expand_as(gap)


def kept(gap: Tensor, mask: Tensor, rejection: Rejection) -> Tensor:
    """Bool [N, R]: tokens whose ratio lies within the bounds, which belong to what is kept.

    Args:
        gap: see :func:`ratio_exponents`, like ``mask``.
        mask: the sampled tokens.
        rejection: level and bounds.
    """
    ratio = _exp(ratio_exponents(gap, mask, rejection.level))
    inside = torch.ones_like(mask)
    if rejection.low is not None:
        inside &= ratio >= rejection.low
    if rejection.high is not None:
        inside &= ratio <= rejection.high
    return inside


@torch.no_grad()
def truncated_ratio(logprobs: Tensor, old_logprobs: Tensor, cap: float) -> Tensor:
    """min(pi / pi_old, cap) of every token, without gradient; the exponent is kept within +-20.

    Args:
        logprobs: any shape.
        old_logprobs: the same shape.
        cap: no ratio is larger.
    """
    return _exp(logprobs - old_logprobs).clamp(max=cap)


def _exp(exponent: Tensor) -> Tensor:
    return exponent.clamp(-MAX_GAP, MAX_GAP).exp()
