"""Self-distillation: the plain formulas, the blockwise head against them, the attribution."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipo.functional.aggregation import aggregate
from pipo.functional.divergence import (
    DistillationForm,
    distillation_divergence,
    keep_and_pool,
    token_attribution,
)
from pipo.lm import distillation, logprobs
from pipo.lm.distillation import blockwise_divergence

TIGHT = {"rtol": 1e-8, "atol": 1e-10}


def form(kind="reverse-kl", alpha=None, top_k=None):
    return DistillationForm(kind=kind, alpha=alpha, top_k=top_k)


FORMS = [
    form(),
    form(top_k=5),
    form("jensen-shannon", 0.5),
    form("jensen-shannon", 0.2, 5),
    form("jensen-shannon", 0.9, 1),
]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def textbook(student_logits, teacher_logits, which):
    """The definitions on probabilities, with every term differentiated."""
    student, teacher = student_logits.softmax(-1), teacher_logits.softmax(-1)
    if which.top_k is not None and which.top_k < student.shape[-1]:
        order = student.detach().argsort(dim=-1, descending=True)
        kept, rest = order[..., : which.top_k], order[..., which.top_k :]
        student, teacher = (
            torch.cat([p.gather(-1, kept), p.gather(-1, rest).sum(-1, keepdim=True)], -1)
            for p in (student, teacher)
        )
    if which.alpha is None:
        return (student * (student / teacher).log()).sum(-1)
    mixture = which.alpha * teacher + (1 - which.alpha) * student
    return which.alpha * (teacher * (teacher / mixture).log()).sum(-1) + (1 - which.alpha) * (
        student * (student / mixture).log()
    ).sum(-1)


def test_reverse_kl_matches_the_golden_values_and_gradient(golden):
    case = golden["self_distillation"]
    student, mask = tensor(case["student_logits"]).requires_grad_(), tensor(case["mask"]).bool()
    per_token = distillation_divergence(student, tensor(case["teacher_logits"]), form())
    # What stands on padding is defined by nobody.
    torch.testing.assert_close(per_token.detach()[mask], tensor(case["reverse_kl"])[mask], **TIGHT)
    loss = aggregate(per_token, mask, "token-mean", mask.sum().item())
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-8)
    torch.testing.assert_close(student.grad, tensor(case["grad"]), **TIGHT)


def test_attribution_matches_the_golden_vectors(golden):
    case = golden["self_distillation"]
    tokens, mask = torch.tensor(case["tokens"])[..., None], tensor(case["mask"]).bool()
    student, teacher = (
        tensor(case[name]).requires_grad_().log_softmax(-1).gather(-1, tokens)[..., 0]
        for name in ("student_logits", "teacher_logits")
    )
    got = token_attribution(student, teacher)
    torch.testing.assert_close(got[mask], tensor(case["attribution"])[mask], **TIGHT)
    assert not got.requires_grad
    assert (token_attribution(student, student) == 0).all()


def test_divergences_by_hand():
    # Student (3/4, 1/4), teacher (1/4, 3/4): KL = 3/4 ln 3 + 1/4 ln 1/3 = 1/2 ln 3 either way round.
    # The mixture is (1/2, 1/2): JS = 3/4 ln 3/2 + 1/4 ln 1/2.
    student, teacher = tensor([0.75, 0.25]).log(), tensor([0.25, 0.75]).log()
    assert distillation_divergence(student, teacher, form()).item() == pytest.approx(0.5 * math.log(3))
    got = distillation_divergence(student, teacher, form("jensen-shannon", 0.5)).item()
    assert got == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-12)


def test_top_k_with_tail_by_hand():
    # Student (.5, .3, .1, .1), teacher (.2, .2, .5, .1), k = 1: (.5 | .5) against (.2 | .8).
    #   .5 ln(.5 / .2) + .5 ln(.5 / .8); the gradient on the logits is p_j (d_j - KL), d the log-ratio
    #   of the token's bucket, so the three tail tokens share d = ln(.5 / .8).
    student = tensor([0.5, 0.3, 0.1, 0.1]).log().requires_grad_()
    got = distillation_divergence(student, tensor([0.2, 0.2, 0.5, 0.1]).log(), form(top_k=1))
    got.backward()
    kept, tail = math.log(0.5 / 0.2), math.log(0.5 / 0.8)
    value = 0.5 * kept + 0.5 * tail
    assert got.item() == pytest.approx(value, rel=1e-12)
    expected = [0.5 * (kept - value), 0.3 * (tail - value), 0.1 * (tail - value), 0.1 * (tail - value)]
    torch.testing.assert_close(student.grad, tensor(expected), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("which", FORMS, ids=str)
def test_values_and_gradients_equal_the_textbook_definition(which):
    torch.manual_seed(0)
    student, teacher = (2 * torch.randn(2, 6, 4, 11, dtype=torch.float64)).unbind()
    student.requires_grad_()
    upstream = torch.randn(6, 4, dtype=torch.float64)
    got, wanted = distillation_divergence(student, teacher, which), textbook(student, teacher, which)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value, student, upstream)[0] for value in (got, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", FORMS, ids=str)
def test_a_teacher_equal_to_the_student_gives_exactly_nothing(which, dtype):
    torch.manual_seed(0)
    student = (5 * torch.randn(50, 101, dtype=dtype)).requires_grad_()
    divergence = distillation_divergence(student, student, which)
    divergence.sum().backward()
    assert (divergence == 0).all()
    assert (student.grad == 0).all()


@pytest.mark.parametrize("kind", [form(), form("jensen-shannon", 0.5)], ids=str)
@pytest.mark.parametrize("top_k", [11, 12])
def test_top_k_of_the_whole_vocabulary_is_exact(kind, top_k):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 8, 11, dtype=torch.float64).unbind()
    exact = distillation_divergence(student, teacher, kind)
    got = distillation_divergence(student, teacher, form(kind.kind, kind.alpha, top_k))
    assert torch.equal(got, exact)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), top_k=st.integers(1, 10))
def test_the_tail_bucket_carries_the_remaining_mass(seed, top_k):
    generator = torch.Generator().manual_seed(seed)
    logprobs = torch.randn(3, 11, dtype=torch.float64, generator=generator).log_softmax(-1)
    kept = logprobs.topk(top_k).indices
    buckets = keep_and_pool(logprobs, kept)
    assert buckets.shape == (3, top_k + 1)
    torch.testing.assert_close(buckets.exp().sum(-1), torch.ones(3).double(), rtol=1e-12, atol=0)
    missing = 1 - logprobs.exp().gather(-1, kept).sum(-1)
    torch.testing.assert_close(buckets[:, -1].exp(), missing, rtol=1e-9, atol=1e-14)


def test_the_tail_of_a_confident_model_keeps_its_digits():
    # Two tail tokens at exp(-40) each: one minus the kept mass would be 0, its logarithm -inf.
    logits = torch.tensor([0.0, -40.0, -40.0])
    tail = keep_and_pool(logits.log_softmax(-1), torch.tensor([0]))[-1]
    assert tail.item() == pytest.approx(-40 + math.log(2), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 50))
def test_jensen_shannon_is_symmetric_and_bounded(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, 4, 11, dtype=torch.float64, generator=generator)
    half = form("jensen-shannon", 0.5)
    there, back = (distillation_divergence(*p, half) for p in ((student, teacher), (teacher, student)))
    torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-12)
    assert (there >= -1e-14).all()
    assert (there <= math.log(2) + 1e-12).all()
    # alpha and 1 - alpha exchange the roles; the bound is the entropy of (alpha, 1 - alpha).
    ours = distillation_divergence(student, teacher, form("jensen-shannon", 0.2))
    swapped = distillation_divergence(teacher, student, form("jensen-shannon", 0.8))
    torch.testing.assert_close(ours, swapped, rtol=1e-9, atol=1e-12)
    assert (ours <= -0.2 * math.log(0.2) - 0.8 * math.log(0.8) + 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), top_k=st.integers(1, 9))
def test_pooling_never_raises_the_divergence(seed, top_k):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 4, 11, dtype=torch.float64, generator=generator)
    for kind, alpha in (("reverse-kl", None), ("jensen-shannon", 0.5)):
        coarse, finer, exact = (
            distillation_divergence(student, teacher, form(kind, alpha, k)) for k in (top_k, top_k + 1, None)
        )
        assert (coarse <= finer + 1e-12).all()
        assert (finer <= exact + 1e-12).all()


@pytest.mark.parametrize("which", FORMS, ids=str)
def test_opposite_certainties_stay_finite(which):
    student = torch.tensor([[300.0, 0.0, -300.0, 0, 0, 0, 0]]).requires_grad_()
    divergence = distillation_divergence(student, -student, which)
    divergence.sum().backward()
    assert divergence.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("which", FORMS, ids=str)
@pytest.mark.parametrize("rows_per_block", [1, 3, 100])
def test_blocks_equal_the_plain_formula(monkeypatch, which, rows_per_block):
    torch.manual_seed(0)
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", rows_per_block * 2 * 23)
    hidden, weight = (
        torch.randn(10, 6).double().requires_grad_(),
        torch.randn(23, 6).double().requires_grad_(),
    )
    teacher_hidden, teacher_weight = torch.randn(10, 4).double(), torch.randn(23, 4).double()
    upstream = torch.randn(10).double()
    plain = distillation_divergence(
        hidden @ weight.t() / 0.7, teacher_hidden @ teacher_weight.t() / 0.7, which
    )
    got = blockwise_divergence(hidden, weight, teacher_hidden, teacher_weight, which, 0.7)
    torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-12)
    wanted = torch.autograd.grad(plain, (hidden, weight), upstream)
    for ours, theirs in zip(torch.autograd.grad(got, (hidden, weight), upstream), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_no_block_holds_more_logits_than_allowed(monkeypatch):
    torch.manual_seed(0)
    seen = []

    def spy(student, teacher, which):
        seen.append((student.shape[0], teacher.shape[0]))
        return distillation_divergence(student, teacher, which)

    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 4 * 2 * 23 + 5)
    monkeypatch.setattr(distillation, "distillation_divergence", spy)
    hidden, weight = torch.randn(10, 6, requires_grad=True), torch.randn(23, 6)
    blockwise_divergence(hidden, weight, torch.randn(10, 6), weight, form(), 1.0).sum().backward()
    # Ten rows in blocks of at most four, once forward and once backward.
    assert seen == [(4, 4), (4, 4), (2, 2)] * 2


@pytest.mark.parametrize("which", FORMS, ids=str)
def test_blocks_with_the_student_as_its_own_teacher_give_exactly_nothing(monkeypatch, which):
    torch.manual_seed(0)
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 4 * 2 * 101)
    hidden, weight = torch.randn(30, 8, requires_grad=True), torch.randn(101, 8, requires_grad=True)
    divergence = blockwise_divergence(hidden, weight, hidden, weight, which, 0.9)
    divergence.sum().backward()
    assert (divergence == 0).all()
    assert (hidden.grad == 0).all()
    assert (weight.grad == 0).all()


def test_the_teacher_gets_no_gradient_and_a_frozen_head_none_either():
    torch.manual_seed(0)
    hidden, teacher_hidden = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    weight, teacher_weight = torch.randn(9, 4), torch.randn(9, 4, requires_grad=True)
    blockwise_divergence(hidden, weight, teacher_hidden, teacher_weight, form(), 1.0).sum().backward()
    assert (hidden.grad != 0).any()
    assert teacher_hidden.grad is None
    assert teacher_weight.grad is None


def test_blocks_in_half_precision_return_float32_and_gradients_of_the_inputs_dtype():
    torch.manual_seed(0)
    hidden = torch.randn(7, 8, dtype=torch.bfloat16, requires_grad=True)
    weight, teacher = (
        torch.randn(19, 8, dtype=torch.bfloat16, requires_grad=True),
        torch.randn(7, 8).bfloat16(),
    )
    got = blockwise_divergence(hidden, weight, teacher, weight, form(), 1.0)
    got.sum().backward()
    assert got.dtype == torch.float32
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16)


def test_no_rows_give_zero_gradients():
    hidden, weight = torch.zeros(0, 4, requires_grad=True), torch.ones(9, 4, requires_grad=True)
    blockwise_divergence(hidden, weight, hidden, weight, form(), 1.0).sum().backward()
    assert (weight.grad == 0).all()


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"kind": "forward-kl", "alpha": None, "top_k": None}, "kind"),
        ({"kind": "reverse-kl", "alpha": 0.5, "top_k": None}, "alpha"),
        ({"kind": "jensen-shannon", "alpha": None, "top_k": None}, "alpha"),
        ({"kind": "jensen-shannon", "alpha": 1.0, "top_k": None}, "alpha"),
        ({"kind": "reverse-kl", "alpha": None, "top_k": 0}, "top_k"),
    ],
)
def test_the_form_names_the_bad_value(kwargs, name):
    with pytest.raises(ValueError, match=name):
        DistillationForm(**kwargs)


def test_blocks_refuse_what_does_not_fit():
    hidden, weight = torch.zeros(3, 4), torch.zeros(9, 4)
    with pytest.raises(ValueError, match="temperature"):
        blockwise_divergence(hidden, weight, hidden, weight, form(), 0.0)
    with pytest.raises(ValueError, match="teacher_hidden: expected 3 rows"):
        blockwise_divergence(hidden, weight, hidden[:2], weight, form(), 1.0)
    with pytest.raises(ValueError, match="teacher_weight: expected 9 tokens"):
        blockwise_divergence(hidden, weight, hidden, weight[:8], form(), 1.0)
