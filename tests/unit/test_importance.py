"""Importance sampling correction between sampler and trainer, against the published formulas."""

from __future__ import annotations

import math

import pytest
import torch

from pipo.functional.divergence import kl_k3, kl_k3_corrected
from pipo.functional.importance import importance_weights
from pipo.functional.surrogate import ClipRange, clipped_surrogate_loss
from pipo.records.correction import ImportanceCorrection, Rejection
from pipo.rollout.options import SamplingWithCorrection

LN = torch.log(torch.tensor([0.5, 0.2, 0.9, 0.4])).view(2, 2)
MASK = torch.tensor([[True, True], [True, False]])


def weights(trainer, sampler, level, cap=2.0, mask=MASK):
    return importance_weights(trainer, sampler, mask, ImportanceCorrection(level=level, cap=cap))


@pytest.mark.parametrize("level", ["none", "token", "sequence", "geometric"])
def test_exactly_one_where_both_agree(level):
    generator = torch.Generator().manual_seed(0)
    logprobs = -10 * torch.rand(50, 40, generator=generator)
    mask = torch.arange(40) < torch.randint(1, 41, (50, 1), generator=generator)
    assert torch.equal(weights(logprobs, logprobs.clone(), level, mask=mask), mask.float())


def test_values_by_hand():
    """Trainer 0.5 0.2 | 0.9, sampler 0.4 0.4 | 0.3: ratios 5/4, 1/2 | 3; products 5/8 | 3, capped at 2."""
    sampler = torch.log(torch.tensor([[0.4, 0.4], [0.3, 1e-9]]))
    token = weights(LN, sampler, "token")
    torch.testing.assert_close(token, torch.tensor([[1.25, 0.5], [2.0, 0.0]]), rtol=1e-6, atol=0)
    sequence = weights(LN, sampler, "sequence")
    torch.testing.assert_close(sequence, torch.tensor([[0.625, 0.625], [2.0, 0.0]]), rtol=1e-6, atol=0)
    assert torch.equal(weights(LN, sampler, "none"), MASK.float())


def test_a_cap_of_one_only_lowers():
    sampler = torch.log(torch.tensor([[0.4, 0.4], [0.3, 0.5]]))
    expected = torch.tensor([[1.0, 0.5], [1.0, 0.0]])
    torch.testing.assert_close(weights(LN, sampler, "token", cap=1.0), expected, rtol=1e-6, atol=0)


def test_a_token_that_the_sampler_thought_impossible_gets_the_cap():
    sampler = LN.clone()
    sampler[0, 0] = -math.inf
    assert weights(LN, sampler, "token").tolist() == [[2.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("clip", [None, 3.0])
def test_weighting_the_advantages_is_weighting_the_loss(clip):
    """The clipped surrogate is linear in the size of the advantage, the dual bound included."""
    generator = torch.Generator().manual_seed(1)
    ratio = torch.exp(torch.randn(200, generator=generator, dtype=torch.float64))
    advantages = torch.randn(200, generator=generator, dtype=torch.float64)
    weight = 2 * torch.rand(200, generator=generator, dtype=torch.float64)
    region = ClipRange(low=0.2, high=0.2, dual=clip)
    weighted = clipped_surrogate_loss(ratio, weight * advantages, region)
    torch.testing.assert_close(weighted, weight * clipped_surrogate_loss(ratio, advantages, region))


@pytest.mark.parametrize("cap", [0.99, math.inf, math.nan])
def test_a_cap_below_one_is_refused(cap):
    with pytest.raises(ValueError, match=r"cap\n  Input should be (a finite|greater than or equal to 1)"):
        ImportanceCorrection(level="token", cap=cap)


# Probabilities of the tokens of three responses under trainer and sampler; None is padding.
TRAINER = [[0.5, 0.2, 0.1], [0.9, 0.3, None], [0.4, None, None]]
SAMPLER = [[0.4, 0.4, 0.1], [0.3, 0.2, None], [0.1, None, None]]


def published(level: str) -> list[list[float]]:
    """The ratio that stands for each token, in plain Python.

    token: pi_train / pi_sampler. sequence: the product, which verl writes exp(sum of the log-ratios).
    geometric: its n-th root, verl's bound on ``seq_mean_k1``, which is minus the mean log-ratio.
    """
    rows = []
    for trainer, sampler in zip(TRAINER, SAMPLER, strict=True):
        ratios = [t / s for t, s in zip(trainer, sampler, strict=True) if t is not None and s is not None]
        whole = math.prod(ratios)
        of_response = {"sequence": whole, "geometric": whole ** (1 / len(ratios))}
        filled = ratios if level == "token" else [of_response[level]] * len(ratios)
        rows.append(filled + [0.0] * (3 - len(ratios)))
    return rows


def logs(table: list[list[float | None]]) -> torch.Tensor:
    return torch.tensor(
        [[math.log(p) if p is not None else -7.0 for p in row] for row in table], dtype=torch.float64
    )


GOLDEN_MASK = torch.tensor([[p is not None for p in row] for row in TRAINER])


def check(correction: ImportanceCorrection, expected: list[list[float]]) -> None:
    got = importance_weights(logs(TRAINER), logs(SAMPLER), GOLDEN_MASK, correction)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_ratios_are_those_worked_by_hand():
    """5/4 1/2 1 | 3 3/2 | 4: products 5/8, 9/2, 4; geometric means .625^(1/3) = .854988, 4.5^(1/2), 4."""
    assert published("token")[0] == pytest.approx([1.25, 0.5, 1.0])
    assert [row[0] for row in published("sequence")] == pytest.approx([0.625, 4.5, 4.0])
    assert [row[0] for row in published("geometric")] == pytest.approx([0.854988, 2.121320, 4.0], abs=1e-6)


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_truncation_between_two_bounds(level):
    """TRL ``token_truncate`` and ``sequence_truncate``: clamp(ratio, C_min, C_max); padding stays 0."""
    expected = [[min(max(w, 0.6), 2.0) if w else 0.0 for w in row] for row in published(level)]
    assert any(0.6 in row for row in expected) == (level == "token")
    check(ImportanceCorrection(level=level, cap=2.0, floor=0.6), expected)


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize(("low", "high"), [(0.7, 3.5), (None, 3.5), (0.7, None)])
def test_masking_by_the_ratio_that_weighs(level, low, high):
    """TRL ``token_mask``, ``sequence_mask`` and IcePop: a ratio outside of [C_min, C_max] becomes 0."""
    expected = [
        [w if (low is None or w >= low) and (high is None or w <= high) else 0.0 for w in row]
        for row in published(level)
    ]
    rejection = Rejection(level=level, low=low, high=high)
    check(ImportanceCorrection(level=level, cap=None, rejection=rejection), expected)


def test_token_weights_and_rejection_of_responses_by_their_geometric_mean():
    """Verl's ``decoupled_geo_rs_token_tis``: min(rho_k, 2), 0 for responses beyond .8 to 2.5."""
    expected = [[1.25, 0.5, 1.0], [2.0, 1.5, 0.0], [0.0, 0.0, 0.0]]
    rejection = Rejection(level="geometric", low=0.8, high=2.5)
    check(ImportanceCorrection(level="token", cap=2.0, rejection=rejection), expected)
    check(
        ImportanceCorrection(level="none", cap=2.0, rejection=rejection),
        [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]],
    )


SAMPLING = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "replay_sampling_mask": True,
    "importance_correction": "token",
    "importance_cap": 2.0,
    "importance_floor": None,
    "rejection": None,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"importance_correction": "none", "importance_floor": 0.5}, r"importance_floor=0\.5 needs"),
        ({"importance_cap": None}, r"importance_cap=null needs rollout\.rejection\.high"),
        ({"importance_cap": None, "rejection": {"level": "token", "low": 0.5, "high": None}}, "null needs"),
        ({"rejection": {"level": "token", "low": None, "high": None}}, "needs low, high or both"),
        ({"rejection": {"level": "token", "low": 1.5, "high": None}}, "less than or equal to 1"),
        ({"rejection": {"level": "token", "low": None, "high": 0.5}}, "greater than or equal to 1"),
        ({"rejection": {"level": "none", "low": 0.5, "high": None}}, "level"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        SamplingWithCorrection(**{**SAMPLING, **changes})


def test_the_corrected_k3_by_hand():
    """Pi .3, old .6, reference .9: nu 1/2, d = ln 3, k3 = 3 - ln 3 - 1; times a weight of 1.5.

    The slope by log pi is -1.5 nu ln 3; the plain one is 1 - 3. DeepSeek-V3.2's formula (TRL's
    ``per_token_kl * coef_1``), differentiated by the library, says the same.
    """
    logprobs = torch.tensor([[math.log(0.3)]], dtype=torch.float64, requires_grad=True)
    old, reference = (torch.tensor([[math.log(p)]], dtype=torch.float64) for p in (0.6, 0.9))
    weight = torch.tensor([[1.5]], dtype=torch.float64)
    found = kl_k3_corrected(logprobs, old, reference, weight)
    assert found.item() == pytest.approx(0.75 * (2 - math.log(3)), rel=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), logprobs)
    assert slope.item() == pytest.approx(-0.75 * math.log(3), rel=1e-12)
    d = reference - logprobs
    (published,) = torch.autograd.grad((weight * (logprobs - old).exp() * (d.exp() - d - 1)).sum(), logprobs)
    assert slope.item() == pytest.approx(published.item(), rel=1e-12)
    (plain,) = torch.autograd.grad(kl_k3(logprobs, reference).sum(), logprobs)
    assert plain.item() == pytest.approx(-2.0, rel=1e-12)


@pytest.mark.parametrize("moved", [0.0, 0.7])
def test_the_expected_gradient_of_the_corrected_k3_is_that_of_the_divergence(moved):
    """Over all six tokens that the sampler could draw, with its weights; that of the plain k3 is another."""
    generator = torch.Generator().manual_seed(3)
    start, step, other, sampler = 2 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    logits = (start + moved * step).requires_grad_()
    old, reference = start.log_softmax(0), (start + other).log_softmax(0)
    drawn = (start + 0.3 * sampler).softmax(0)
    current = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((current.exp() * (current - reference)).sum(), logits, retain_graph=True)
    weight = old.exp() / drawn  # untruncated
    estimate = (drawn * kl_k3_corrected(current, old, reference, weight)).sum()
    value = (current.exp() * (current - reference)).sum()
    torch.testing.assert_close(estimate, value, rtol=1e-10, atol=0)
    (corrected,) = torch.autograd.grad(estimate, logits, retain_graph=True)
    torch.testing.assert_close(corrected, exact, rtol=1e-9, atol=1e-12)
    (plain,) = torch.autograd.grad((drawn * kl_k3(current, reference)).sum(), logits)
    assert (plain - exact).norm() > 0.2 * exact.norm()


def test_a_forgotten_token_has_a_slope_of_its_distance_and_not_of_its_exponential():
    """At d = 12 the plain k3 has a slope of 1.6e5 without verl's bound and none with it; this one has 12."""
    logprobs = torch.tensor([[-12.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.zeros(1, 1, dtype=torch.float64)
    found = kl_k3_corrected(logprobs, logprobs.detach(), reference, None)
    (slope,) = torch.autograd.grad(found.sum(), logprobs)
    assert slope.item() == -12.0
