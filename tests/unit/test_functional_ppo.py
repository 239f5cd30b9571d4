"""Advantage estimation, whitening and the critic's loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipo.functional.advantages import gae, moments, variance, whiten
from pipo.functional.aggregation import aggregate
from pipo.functional.masks import last_sampled
from pipo.functional.value import clipped_value_loss, explained_variance

TIGHT = {"rtol": 1e-8, "atol": 1e-10}
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def ragged(lengths, width):
    return torch.arange(width)[None] < torch.tensor(lengths)[:, None]


def test_gae_and_whitening_match_the_golden_vectors(golden):
    case = golden["gae"]
    mask = tensor(case["mask"]).bool()
    for entry in case["expected"]:
        advantages, returns = gae(
            tensor(case["rewards"]), tensor(case["values"]), mask, entry["gamma"], entry["lam"]
        )
        whitened = whiten(advantages, mask)
        for name, got in (("advantages", advantages), ("returns", returns), ("whitened", whitened)):
            torch.testing.assert_close(got[mask], tensor(entry[name])[mask], **TIGHT)


def test_gae_by_hand():
    # gamma = lam = .5, rewards 1 2 4, values .5 1 2, nothing after the last token:
    #   delta_3 = 4 - 2 = 2,  delta_2 = 2 + .5 * 2 - 1 = 2,  delta_1 = 1 + .5 * 1 - .5 = 1
    #   A_3 = 2,  A_2 = 2 + .25 * 2 = 2.5,  A_1 = 1 + .25 * 2.5 = 1.625
    # The second row ends after one token: A = 1 - .5 = .5, whatever stands on its padding.
    rewards, values = tensor([[1, 2, 4], [1, 99, math.nan]]), tensor([[0.5, 1, 2], [0.5, math.nan, 99]])
    advantages, returns = gae(rewards, values, ragged([3, 1], 3), 0.5, 0.5)
    torch.testing.assert_close(advantages, tensor([[1.625, 2.5, 2], [0.5, 0, 0]]), **EXACT)
    torch.testing.assert_close(returns, tensor([[2.125, 3.5, 4], [1, 0, 0]]), **EXACT)


def test_undiscounted_gae_without_a_critic_is_the_return_on_every_token():
    mask = ragged([4, 1, 3, 0], 4)
    rewards = torch.zeros(4, 4, dtype=torch.float64)
    rewards[0, 3], rewards[1, 0], rewards[2, 2] = 0.7, 1.0, -0.3
    advantages, returns = gae(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)
    expected = tensor([[0.7], [1.0], [-0.3], [0.0]]) * mask
    assert torch.equal(advantages, expected)
    assert torch.equal(returns, expected)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_temporal_differences(seed, gamma, lam):
    """The definition, a double sum, against the recursion."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 1, 5, dtype=torch.float64, generator=generator)
    advantages, _ = gae(rewards, values, ragged([5], 5), gamma, lam)
    r, v = rewards[0].tolist(), [*values[0].tolist(), 0.0]
    for t in range(5):
        deltas = [r[k] + gamma * v[k + 1] - v[k] for k in range(t, 5)]
        wanted = sum((gamma * lam) ** power * delta for power, delta in enumerate(deltas))
        assert advantages[0, t].item() == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_a_perfect_critic_leaves_no_advantage():
    # gamma = 1, reward 1 on the last token, V = 1 everywhere: every delta is zero.
    rewards = tensor([[0, 0, 1], [1, 0, 0]])
    mask = ragged([3, 1], 3)
    advantages, returns = gae(rewards, torch.ones(2, 3, dtype=torch.float64), mask, 1.0, 0.9)
    assert (advantages == 0).all()
    assert torch.equal(returns, mask.double())


def test_gae_gives_constants():
    values = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    advantages, returns = gae(torch.ones(1, 3).double(), values, ragged([3], 3), 1.0, 1.0)
    assert not advantages.requires_grad
    assert not returns.requires_grad


def test_gae_of_responses_without_positions():
    nothing = torch.zeros(2, 0)
    advantages, returns = gae(nothing, nothing, nothing.bool(), 1.0, 1.0)
    assert advantages.shape == returns.shape == (2, 0)


def test_gae_refuses_what_it_cannot_use():
    zeros, mask = torch.zeros(2, 3), ragged([3, 2], 3)
    with pytest.raises(ValueError, match="gamma"):
        gae(zeros, zeros, mask, 1.1, 1.0)
    with pytest.raises(ValueError, match="lam"):
        gae(zeros, zeros, mask, 1.0, math.nan)
    with pytest.raises(ValueError, match="values: expected shape"):
        gae(zeros, zeros[:, :1], mask, 1.0, 1.0)
    with pytest.raises(ValueError, match="rewards: expected shape"):
        gae(zeros[0], zeros, mask, 1.0, 1.0)


def test_the_last_sampled_token_is_found_behind_what_was_inserted():
    gap = torch.tensor([[True, False, True, False], [False, False, False, False], [True, True, True, True]])
    assert last_sampled(gap).tolist() == [2, -1, 3]
    assert last_sampled(torch.zeros(2, 0, dtype=torch.bool)).tolist() == [-1, -1]


def test_a_transition_of_gae_skips_what_was_inserted():
    """Sampled at places 0, 1 and 4, inserted at 2 and 3; gamma = 1/2, lambda = 1/2.

    delta_4 = 8 - 1 = 7, delta_1 = 2 + 1/2 * 1 - 4 = -3/2 and delta_0 = 1 + 1/2 * 4 - 2 = 1; from one sampled
    token to the next the factor is 1/4: A_4 = 7, A_1 = -3/2 + 7/4 = 1/4, A_0 = 1 + 1/16.
    """
    junk = math.nan
    rewards, values = tensor([[1, 2, junk, 9, 8, junk]]), tensor([[2, 4, 5, junk, 1, 3]])
    mask = torch.tensor([[True, True, False, False, True, False]])
    advantages, returns = gae(rewards, values, mask, 0.5, 0.5)
    assert advantages.tolist() == [[1.0625, 0.25, 0, 0, 7, 0]]
    assert returns.tolist() == [[3.0625, 4.25, 0, 0, 8, 0]]
    # The same as without the inserted tokens, whatever gamma and lambda.
    for gamma, lam in ((1.0, 1.0), (0.9, 0.7)):
        whole, _ = gae(rewards, values, mask, gamma, lam)
        kept = torch.ones(1, 3, dtype=torch.bool)
        short, _ = gae(rewards[mask][None], values[mask][None], kept, gamma, lam)
        assert torch.equal(whole[mask][None], short)


def test_whitening_by_hand():
    # 1, 2, 3, 6 (padding 100): mean 3, unbiased variance (4 + 1 + 0 + 9) / 3 = 14 / 3.
    values, mask = tensor([[1, 2, 3], [6, 100, 100]]), ragged([3, 1], 3)
    scale = 1 / math.sqrt(14 / 3 + 1e-8)
    expected = tensor([[-2 * scale, -scale, 0], [3 * scale, 0, 0]])
    torch.testing.assert_close(whiten(values, mask), expected, **EXACT)
    assert moments(values, mask).tolist() == [12.0, 50.0, 4.0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 6))
def test_whitening_on_two_ranks_equals_the_whole(seed, cut):
    generator = torch.Generator().manual_seed(seed)
    values = 3 + 2 * torch.randn(6, 5, dtype=torch.float64, generator=generator)
    mask = ragged([5, 2, 5, 1, 3, 2], 5)
    totals = moments(values[:cut], mask[:cut]) + moments(values[cut:], mask[cut:])
    parts = [whiten(values[rows], mask[rows], totals) for rows in (slice(0, cut), slice(cut, 6))]
    whole = whiten(values, mask)
    torch.testing.assert_close(torch.cat(parts), whole, **EXACT)
    assert whole[mask].mean().item() == pytest.approx(0, abs=1e-12)
    assert whole[mask].var().item() == pytest.approx(1, rel=1e-7)
    # Each rank by itself gives other numbers; so the equality above can fail.
    if cut in (2, 3, 4):
        assert (whiten(values[:cut], mask[:cut]) - parts[0]).abs().max() > 1e-3


def test_whitening_of_equal_values_is_zero():
    assert (whiten(torch.full((2, 3), 0.1), ragged([3, 2], 3)).abs() < 1e-3).all()


def test_whitening_of_float32_far_from_zero_keeps_its_digits():
    # The sums of squares are 1e8; in float32 nothing would be left of a variance of 1.
    torch.manual_seed(0)
    values, mask = (1e4 + torch.randn(4, 50)), ragged([50] * 4, 50)
    got = whiten(values, mask)
    exact = values.double()
    wanted = (exact - exact.mean()) / (exact.var() + 1e-8).sqrt()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=2e-3)
    assert moments(values, mask).dtype == torch.float64
    assert variance(moments(values, mask)).item() == pytest.approx(exact.var().item(), rel=1e-6)


def test_one_token_has_no_variance():
    with pytest.raises(ValueError, match="at least 2"):
        whiten(torch.ones(1, 2), ragged([1], 2))


def test_value_loss_matches_the_golden_value_and_gradient(golden):
    case = golden["value_loss"]
    values, mask = tensor(case["values"]).requires_grad_(), tensor(case["mask"]).bool()
    per_token = clipped_value_loss(values, tensor(case["old_values"]), tensor(case["returns"]), case["clip"])
    loss = aggregate(per_token, mask, "token-mean", mask.sum().item())
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-8)
    torch.testing.assert_close(values.grad, tensor(case["grad"]), **TIGHT)
    assert (values.grad[~mask] == 0).all()


def test_value_loss_by_hand():
    # old 0, clip .5, return 2:
    #   V = .3: inside, .5 * 1.7^2 = 1.445, gradient .3 - 2 = -1.7
    #   V = 1: V_clip = .5, squares 1 and 2.25, loss .5 * 2.25 = 1.125, the clipped one: gradient 0
    #   V = -1: V_clip = -.5, squares 9 and 6.25, loss 4.5, the plain one: gradient -3 pulls it back
    values = tensor([[0.3, 1.0, -1.0]]).requires_grad_()
    loss = clipped_value_loss(values, torch.zeros(1, 3).double(), tensor([[2, 2, 2]]), 0.5)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), tensor([[1.445, 1.125, 4.5]]), **EXACT)
    torch.testing.assert_close(values.grad, tensor([[-1.7, 0, -3]]), **EXACT)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_value_loss_refuses_a_clip_that_is_not_positive(clip):
    with pytest.raises(ValueError, match="value_clip"):
        clipped_value_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), clip)


def explained(values, returns, mask):
    return explained_variance(moments(returns, mask), moments(returns - values, mask))


def test_explained_variance_by_hand():
    # Returns 0 2 4 (variance 4), values 0 1 2: residuals 0 1 2 with variance 1, so 1 - 1/4. Padding: 99.
    returns, mask = tensor([[0, 2], [4, 99]]), ragged([2, 1], 2)
    assert explained(tensor([[0, 1], [2, -99]]), returns, mask) == pytest.approx(0.75, rel=1e-12)
    assert explained(returns, returns, mask) == 1.0
    # A constant explains nothing, whatever its level; the opposite sign doubles the residuals: 1 - 4.
    assert explained(torch.full_like(returns, 7.0), returns, mask) == pytest.approx(0, abs=1e-12)
    assert explained(-returns, returns, mask) == pytest.approx(-3, rel=1e-12)
    # Returns that differ by rounding alone do not vary.
    assert math.isnan(explained(returns, 1 + 1e-8 * returns, mask))
