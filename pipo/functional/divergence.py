"""Divergences: from a reference policy on sampled tokens, from a self-teacher over the vocabulary."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipo.records.options import Count, Options

# Bounds of the k3 estimate, of its log-ratio and of its value.
MAX_K3_GAP = 20.0
MAX_K3 = 10.0


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The plain estimate of KL(pi || pi_ref) on sampled tokens: log pi - log pi_ref, [n, R].

    Unbiased, of either sign. For rewards, not for losses: its gradient has mean zero.
    """
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The low-variance estimate of KL(pi || pi_ref): exp(d) - d - 1 with d = log pi_ref - log pi.

    Never negative, zero where both agree. As verl's "low_var_kl", which the paper's runs used: d is clamped
    to +-20, so that a token that the policy has all but forgotten cannot overflow, and the value to +-10. A
    token beyond either bound has no gradient; without the second, one at d = 12 has a slope of 1.6e5 and
    is the whole step.

    Args:
        logprobs: [n, R], carries the gradient.
        ref_logprobs: [n, R].

    Returns:
        [n, R], from 0 to 10.
    """
    difference = (ref_logprobs - logprobs).clamp(-MAX_K3_GAP, MAX_K3_GAP)
    return (difference.exp() - difference - 1).clamp(-MAX_K3, MAX_K3)


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio, 0.5 (log pi - log pi_ref)^2: biased, with the right gradient on policy.

    Its gradient is (log pi - log pi_ref) grad log pi, on average that of KL(pi || pi_ref) where pi itself has
    sampled; REINFORCE++ (arXiv 2501.03262, equation 8) has it as its penalty for that reason. Bounds as
    with :func:`kl_k3`'s log-ratio.

    Args:
        logprobs: [n, R], carries the gradient.
        ref_logprobs: [n, R].
    """
    return (logprobs - ref_logprobs).clamp(-MAX_K3_GAP, MAX_K3_GAP).square() / 2


KlEstimator = Literal["k2", "k3", "k3_corrected"]
"""The penalty against a reference: half the square of the log-ratio, as verl's "low_var_kl", or that weighted
by importance."""


def kl_k3_corrected(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, weight: Tensor | None
) -> Tensor:
    """k3 of samples from another policy, weighted so that value and gradient are those of KL(pi || pi_ref).

    DeepSeek-V3.2 (arXiv 2512.02556, section 3.1): nu k3 with nu = pi / pi_old, which carries a gradient.
    Plain k3 has the gradient (1 - exp(d)) grad log pi, which on average is that of KL(pi_ref || pi). With nu,

        grad(nu k3) = nu (k3 + 1 - exp(d)) grad log pi = -nu d grad log pi,    d = log pi_ref - log pi

    which grows as d and not as exp(d): the bound on k3's value, without which the plain estimate takes the
    step over, would here turn the gradient round, and there is none. The gradient is computed from the last
    form, so that nothing large cancels. TRL 1.16 has it as ``use_bias_correction_kl``; at nu = 1 its gradient
    is that of verl 0.9.1's "k3+", which takes k2's.

    Args:
        logprobs: [n, R], carries the gradient.
        old_logprobs: [n, R], of the policy that the trainer says sampled; the ratio is of each token.
        ref_logprobs: [n, R].
        weight: [n, R], the sampler's distance from ``old_logprobs``; None for 1.

    Returns:
        [n, R], not negative.
    """
    now = logprobs.detach()
    nu = (now - old_logprobs).clamp(-MAX_K3_GAP, MAX_K3_GAP).exp()
    factor = nu if weight is None else nu * weight
    d = (ref_logprobs - now).clamp(-MAX_K3_GAP, MAX_K3_GAP)
    return factor * (d.exp() - d - 1) - factor * d * (logprobs - now)


BinaryDivergence = Literal["tv", "kl"]
"""Total variation, or KL(pi_old || pi)."""

# Probability that all other tokens have together, at least: float32 knows no less beside a 1.
MIN_REST = 1e-8


def binary_divergence(logprobs: Tensor, old_logprobs: Tensor, kind: BinaryDivergence) -> Tensor:
    """Divergence of the sampled token against all others, a lower bound of that over the vocabulary, [n, R].

    Equations 13 and 14 of arXiv 2602.04879, with mu = pi_old(y) and p = pi(y):

        tv    |mu - p|
        kl    mu log(mu / p) + (1 - mu) log((1 - mu) / (1 - p))

    Args:
        logprobs: [n, R], log p.
        old_logprobs: [n, R], log mu.
        kind: which.

    Returns:
        [n, R], not negative.
    """
    mu, p = old_logprobs.exp(), logprobs.exp()
    if kind == "tv":
        return (mu - p).abs()
    rest_mu, rest_p = ((-torch.expm1(each)).clamp(min=MIN_REST) for each in (old_logprobs, logprobs))
    divergence = mu * (old_logprobs - logprobs) + rest_mu * (rest_mu / rest_p).log()
    return divergence.clamp(min=0.0)


class DistillationForm(Options):
    """Which divergence draws the student to its teacher."""

    kind: Literal["reverse-kl", "jensen-shannon"]
    """``reverse-kl`` is KL(student || teacher); ``jensen-shannon`` is alpha * KL(teacher || M)
    + (1 - alpha) * KL(student || M) with the mixture M = alpha * teacher + (1 - alpha) * student."""
    alpha: Annotated[float, Field(gt=0, lt=1)] | None
    """Weight of the teacher, for ``jensen-shannon``; None for ``reverse-kl``."""
    top_k: Count | None
    """Compare only the student's top_k tokens and one bucket with all remaining mass of each distribution;
    None, or at least the vocabulary, for the exact divergence."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.alpha is None) != (self.kind == "reverse-kl"):
            raise ValueError(
                f"alpha must be null for reverse-kl, and a number for jensen-shannon, got {self.alpha}"
            )
        return self


def distillation_divergence(student_logits: Tensor, teacher_logits: Tensor, form: DistillationForm) -> Tensor:
    """Divergence between two distributions over the vocabulary (SDPO, arXiv 2601.20802).

    The gradient reaches the student only. Equal logits give exactly zero, value and gradient: both
    formulas multiply by log-ratios that carry no gradient and are exactly zero there. That loses no
    gradient, because the terms that are left out sum to the derivative of the total probability, 0.

    Args:
        student_logits: [..., V], float32 or wider, divided by the temperature; carries the gradient.
        teacher_logits: [..., V], the same for the teacher.
        form: which divergence.

    Returns:
        [...], in nats, not negative up to rounding.
    """
    student = student_logits.log_softmax(dim=-1)
    teacher = teacher_logits.detach().log_softmax(dim=-1)
    if form.top_k is not None and form.top_k < student.shape[-1]:
        chosen = student.detach().topk(form.top_k, dim=-1).indices
        student, teacher = keep_and_pool(student, chosen), keep_and_pool(teacher, chosen)
    if form.alpha is None:
        return (student.exp() * (student.detach() - teacher)).sum(dim=-1)
    return _jensen_shannon(student, teacher, form.alpha)


def keep_and_pool(logprobs: Tensor, kept: Tensor) -> Tensor:
    """Log-probabilities of the kept tokens, then that of all others together.

    The rest is summed directly: one minus the kept mass would be rounding noise for a confident model.

    Args:
        logprobs: [..., V].
        kept: int64 [..., k], k < V.

    Returns:
        [..., k + 1].
    """
    rest = logprobs.scatter(-1, kept, float("-inf")).logsumexp(dim=-1, keepdim=True)
    return torch.cat([logprobs.gather(-1, kept), rest], dim=-1)


def _jensen_shannon(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    gap = teacher - student.detach()
    # log((1 - alpha) + alpha * exp(gap)) = log(M / student), exactly 0 at gap 0, without overflow.
    weight = torch.full_like(gap, alpha).masked_fill_(gap > 0, 1 - alpha)
    mixture_over_student = gap.clamp(min=0.0) + torch.log1p(weight * torch.expm1(-gap.abs()))
    from_student = -(student.exp() * mixture_over_student).sum(dim=-1)
    from_teacher = (teacher.exp() * (gap - mixture_over_student)).sum(dim=-1)
    return alpha * from_teacher + (1 - alpha) * from_student


def token_attribution(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """SDPO's attribution for policy improvement: log teacher(token) - log student(token), no gradient.

    Positive where the teacher, who knows more, finds the sampled token likelier than the student did.

    Args:
        logprobs: [n, R], the student's log-probability of each sampled token.
        teacher_logprobs: [n, R].

    Returns:
        [n, R].
    """
    return teacher_logprobs.detach() - logprobs.detach()
