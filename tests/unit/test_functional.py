"""The mathematics against golden vectors, hand-derived numbers and properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipo.functional.advantages import group_attribution, group_relative_advantages
from pipo.functional.aggregation import aggregate, denominator
from pipo.functional.divergence import kl_k3
from pipo.functional.policy_improvement import policy_improvement_feedback, policy_improvement_reward
from pipo.functional.surrogate import (
    ClipRange,
    clipped_surrogate_loss,
    clipped_tokens,
    sequence_ratio,
    token_ratio,
)

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def test_group_relative_advantages_match_the_golden_vectors(golden):
    case = golden["group_relative"]
    for rewards, expected in zip(case["rewards"], case["advantages"], strict=True):
        got = group_relative_advantages(tensor(rewards), case["group_size"], case["eps"])
        torch.testing.assert_close(got, tensor(expected), **EXACT)


def test_attribution_matches_the_golden_vectors(golden):
    case = golden["pi_reward"]
    for advantages, expected in zip(case["advantages"], case["attribution"], strict=True):
        got = group_attribution(tensor(advantages), len(advantages))
        torch.testing.assert_close(got, tensor(expected), **EXACT)


def test_feedback_matches_the_golden_vectors(golden):
    for case in golden["pi_reward"]["feedback"]:
        got = policy_improvement_feedback(case["mu"], case["history"], case["lam"])
        assert got.defined
        assert got.history_mean == pytest.approx(case["mu_his"], rel=1e-12)
        assert got.history_std == pytest.approx(case["sigma_his"], rel=1e-12)
        assert got.progress == pytest.approx(case["xi"], rel=1e-9)
        assert got.coefficient == pytest.approx(case["phi"], rel=1e-9)


def test_feedback_follows_the_sequence_of_the_algorithm_notes():
    # Twelve mean rewards with K = 8; xi_9 to xi_12 computed by hand with the sample standard deviation.
    mu = [0.30, 0.32, 0.31, 0.35, 0.36, 0.34, 0.38, 0.40, 0.41, 0.39, 0.45, 0.43]
    expected = [1.87638837, 0.86731494, 2.44804504, 1.25499004]
    for offset, xi in enumerate(expected):
        got = policy_improvement_feedback(mu[8 + offset], mu[offset : 8 + offset], 0.1)
        assert got.progress == pytest.approx(xi, abs=5e-9)


def test_feedback_after_a_drop_is_scaled_by_lambda_and_clamped_when_asked():
    # history 0, 1: mean .5, sample std sqrt(.5); mu = -.5 + .5 - 1 -> xi = -1 / sqrt(.5) = -sqrt(2).
    got = policy_improvement_feedback(-0.5, [0.0, 1.0], 0.1)
    assert got.progress == pytest.approx(-math.sqrt(2), rel=1e-12)
    assert got.coefficient == pytest.approx(-0.1 * math.sqrt(2), rel=1e-12)
    clamped = policy_improvement_feedback(-0.5, [0.0, 1.0], 0.1, max_progress=1.0)
    assert (clamped.progress, clamped.coefficient) == (got.progress, -0.1)


def test_feedback_is_undefined_on_a_flat_history():
    got = policy_improvement_feedback(0.9, [0.25] * 8, 0.1)
    assert not got.defined
    assert got.coefficient == 0
    assert math.isnan(got.progress)


def test_feedback_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="at least 2"):
        policy_improvement_feedback(0.5, [0.5], 0.1)
    with pytest.raises(ValueError, match="finite"):
        policy_improvement_feedback(math.nan, [0.5, 0.6], 0.1)


@settings(max_examples=50, deadline=None)
@given(correct=st.integers(1, 7), std_eps=st.sampled_from([1e-9, 1e-6, 0.5]))
def test_binary_attribution_is_g_over_2c_whatever_scaled_the_advantages(correct, std_eps):
    # c correct of G = 8: +G / (2c) for a correct, -G / (2 (G - c)) for a wrong response.
    rewards = tensor([1.0] * correct + [0.0] * (8 - correct))
    got = group_attribution(group_relative_advantages(rewards, 8, std_eps), 8)
    expected = tensor([8 / (2 * correct)] * correct + [-8 / (2 * (8 - correct))] * (8 - correct))
    torch.testing.assert_close(got, expected, **EXACT)


def test_two_groups_by_hand():
    # Group 1: rewards 1, 0, 0, 0 -> s = 4/2, -4/6 (three times); group 2: all alike -> zeros.
    advantages = group_relative_advantages(tensor([1, 0, 0, 0, 0.1, 0.1, 0.1, 0.1]), 4, 1e-6)
    attribution = group_attribution(advantages, 4)
    torch.testing.assert_close(attribution, tensor([2, -2 / 3, -2 / 3, -2 / 3, 0, 0, 0, 0]), **EXACT)
    # xi = -2 after a drop, lambda = .1 -> coefficient -.2: what was reinforced is damped.
    reward = policy_improvement_reward(attribution, -0.2)
    torch.testing.assert_close(reward, tensor([-0.4, 0.4 / 3, 0.4 / 3, 0.4 / 3, 0, 0, 0, 0]), **EXACT)


def test_equal_rewards_that_do_not_average_exactly_give_exact_zeros():
    rewards = torch.full((8,), 0.1, dtype=torch.float32)
    assert (group_relative_advantages(rewards, 8, 1e-6) == 0).all()


def test_surrogate_matches_the_golden_values_and_gradients(golden):
    case = golden["surrogate"]
    old, mask = tensor(case["old_logprobs"]), tensor(case["mask"]).bool()
    for entry in case["expected"]:
        name, logprobs = entry["name"], tensor(entry["logprobs"]).requires_grad_()
        clip = ClipRange(low=entry["clip_low"], high=entry["clip_high"], dual=entry["dual_clip"])
        ratio = (
            token_ratio(logprobs, old)
            if entry["ratio_level"] == "token"
            else sequence_ratio(logprobs, old, mask)
        )
        advantages = tensor(entry["advantages"])
        if advantages.dim() == 1:
            advantages = advantages[:, None].expand_as(logprobs)
        loss = clipped_surrogate_loss(ratio, advantages, clip)
        total = denominator(mask, entry["aggregation"]).item()
        value = aggregate(loss, mask, entry["aggregation"], total)
        value.backward()
        assert value.item() == pytest.approx(entry["loss"], rel=1e-9), name
        torch.testing.assert_close(logprobs.grad, tensor(entry["grad"]), rtol=1e-8, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    log_ratio=st.floats(-1, 1),
    advantage=st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3),
)
def test_gradient_vanishes_exactly_where_the_signed_clip_says(log_ratio, advantage):
    """A < 0: zero iff nu < 1 - low; A > 0: zero iff nu > 1 + high (no dual clip)."""
    logprobs = tensor([[log_ratio]]).requires_grad_()
    clip = ClipRange(low=0.2, high=0.28, dual=None)
    ratio = token_ratio(logprobs, tensor([[0.0]]))
    advantages = tensor([[advantage]])
    clipped_surrogate_loss(ratio, advantages, clip).sum().backward()
    nu = math.exp(log_ratio)
    removed = nu > 1.28 if advantage > 0 else nu < 0.8
    assert (logprobs.grad.item() == 0) == removed
    assert clipped_tokens(ratio, advantages, clip).item() == removed


def test_dual_clip_bounds_the_loss_of_negative_advantages():
    # nu = e^2 = 7.39, A = -1: plain loss 7.39, bound 3 -> loss 3 and no gradient.
    logprobs = tensor([[2.0]]).requires_grad_()
    loss = clipped_surrogate_loss(
        token_ratio(logprobs, tensor([[0.0]])), tensor([[-1.0]]), ClipRange(low=0.2, high=0.2, dual=3.0)
    )
    loss.sum().backward()
    assert loss.item() == 3.0
    assert logprobs.grad.item() == 0


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"low": 1.1, "high": 0.2, "dual": None}, "clip_low"),
        ({"low": 0.2, "high": -0.1, "dual": None}, "clip_high"),
        ({"low": 0.2, "high": 0.2, "dual": 1.0}, "dual_clip"),
    ],
)
def test_clip_range_names_the_bad_number(kwargs, name):
    with pytest.raises(ValueError, match=name):
        ClipRange(**kwargs)


def test_sequence_ratio_with_one_token_is_the_token_ratio():
    new, old = tensor([[0.3, 9.0], [-0.2, 9.0]]), tensor([[0.1, 0.0], [0.4, 0.0]])
    mask = torch.tensor([[True, False], [True, False]])
    torch.testing.assert_close(
        sequence_ratio(new, old, mask)[:, 0], token_ratio(new, old)[:, 0], rtol=0, atol=0
    )


def test_k3_matches_the_golden_values_and_gradients(golden):
    case = golden["kl_k3"]
    mask = tensor(case["mask"]).bool()
    logprobs = tensor(case["logprobs"]).requires_grad_()
    per_token = kl_k3(logprobs, tensor(case["ref_logprobs"]))
    torch.testing.assert_close(per_token.detach()[mask], tensor(case["per_token"])[mask], **EXACT)
    mean = aggregate(per_token, mask, "token-mean", mask.sum().item())
    mean.backward()
    assert mean.item() == pytest.approx(case["token_mean"], rel=1e-9)
    torch.testing.assert_close(logprobs.grad, tensor(case["grad"]), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("gap", "value", "slope"),
    [
        # d = log pi_ref - log pi; the value is e^d - d - 1 up to 10, and its slope on log pi 1 - e^d below.
        (0.0, 0.0, 0.0),
        (2.0, math.exp(2) - 3, 1 - math.exp(2)),
        (2.6, math.exp(2.6) - 3.6, 1 - math.exp(2.6)),  # 9.86, just inside
        (2.62, 10.0, 0.0),  # 10.12
        (12.0, 10.0, 0.0),  # without the bound 1.6e5, value and slope
        (30.0, 10.0, 0.0),
        (-5.0, math.exp(-5) + 4, 1 - math.exp(-5)),
        (-10.9, math.exp(-10.9) + 9.9, 1 - math.exp(-10.9)),
        (-11.5, 10.0, 0.0),
        (-30.0, 10.0, 0.0),
    ],
)
def test_k3_is_bounded_and_a_token_beyond_the_bound_has_no_gradient(gap, value, slope):
    logprobs = tensor([[0.0]]).requires_grad_()
    got = kl_k3(logprobs, tensor([[gap]]))
    got.sum().backward()
    assert got.item() == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert logprobs.grad.item() == pytest.approx(slope, rel=1e-12, abs=1e-12)


def test_one_token_far_from_the_reference_is_not_the_whole_penalty():
    # 99 tokens at d = .5 and one at d = 12: the slopes of the 99 are all there is.
    logprobs = torch.zeros(1, 100, dtype=torch.float64, requires_grad=True)
    reference = torch.full((1, 100), 0.5, dtype=torch.float64)
    reference[0, 7] = 12.0
    kl_k3(logprobs, reference).mean().backward()
    assert logprobs.grad.abs().max().item() == pytest.approx((math.exp(0.5) - 1) / 100, rel=1e-12)
    assert logprobs.grad[0, 7] == 0


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
def test_aggregation_does_not_depend_on_how_the_batch_is_split(aggregation):
    torch.manual_seed(0)
    values = torch.randn(6, 5, dtype=torch.float64)
    mask = torch.arange(5)[None] < torch.tensor([5, 2, 5, 1, 3, 2])[:, None]
    total = denominator(mask, aggregation).item()
    whole = aggregate(values, mask, aggregation, total)
    parts = sum(aggregate(values[rows], mask[rows], aggregation, total) for rows in ([0], [1, 2], [3, 4, 5]))
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-15)
    # The usual mistake, a mean of means, differs; so the equality above can fail.
    wrong = sum(
        aggregate(values[rows], mask[rows], aggregation, denominator(mask[rows], aggregation).item())
        for rows in ([0], [1, 2], [3, 4, 5])
    )
    assert abs((wrong / 3 - whole).item()) > 1e-3


def test_padding_carries_no_gradient():
    values = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    for aggregation in ("token-mean", "seq-mean-token-mean"):
        (grad,) = torch.autograd.grad(aggregate(values, mask, aggregation, 5.0), values)
        assert (grad[~mask] == 0).all()
        assert (grad[mask] != 0).all()


def test_aggregation_refuses_an_empty_denominator():
    with pytest.raises(ValueError, match="positive"):
        aggregate(torch.zeros(1, 1), torch.zeros(1, 1).bool(), "token-mean", 0.0)
