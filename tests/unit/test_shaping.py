"""The over-long penalty and the KL penalty in PPO's reward."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipo.functional.advantages import gae
from pipo.functional.divergence import kl_k1, kl_k3
from pipo.functional.shaping import kl_shaped_rewards, overlong_penalty


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def test_overlong_penalty_matches_the_golden_vectors(golden):
    for case in golden["overlong_penalty"]:
        got = overlong_penalty(torch.tensor([case["length"]]), case["max_length"], case["buffer"])
        assert got.item() == pytest.approx(case["penalty"], rel=1e-12, abs=1e-15), case


def test_overlong_penalty_by_hand():
    # L_max 20, buffer 4: nothing up to 16, then a quarter per token, -1 from 20 on.
    lengths = torch.tensor([0, 16, 17, 18, 19, 20, 21])
    got = overlong_penalty(lengths, 20, 4)
    assert got.tolist() == [0, 0, -0.25, -0.5, -0.75, -1, -1]
    assert not torch.signbit(got[:2]).any()


def test_the_buffer_may_be_one_token_or_the_whole_response():
    assert overlong_penalty(torch.tensor([9, 10]), 10, 1).tolist() == [0, -1]
    assert overlong_penalty(torch.tensor([0, 5, 10]), 10, 10).tolist() == [0, -0.5, -1]


@given(length=st.integers(0, 60), max_length=st.integers(1, 50), share=st.floats(0, 1, exclude_min=True))
def test_overlong_penalty_is_bounded_and_never_rises_with_the_length(length, max_length, share):
    buffer = max(1, int(share * max_length))
    now, next_one = overlong_penalty(torch.tensor([length, length + 1]), max_length, buffer).tolist()
    assert -1 <= next_one <= now <= 0
    assert (now == 0) == (length <= max_length - buffer)
    assert (now == -1) == (length >= max_length)


@pytest.mark.parametrize("buffer", [0, -3, 11])
def test_overlong_penalty_names_the_bad_buffer(buffer):
    with pytest.raises(ValueError, match="buffer"):
        overlong_penalty(torch.tensor([1]), 10, buffer)


def test_k1_by_hand():
    # log pi = log .5, log pi_ref = log .25 -> log 2; and the other way round.
    got = kl_k1(tensor([math.log(0.5), math.log(0.25)]), tensor([math.log(0.25), math.log(0.5)]))
    torch.testing.assert_close(got, tensor([math.log(2), -math.log(2)]), rtol=1e-12, atol=0)


def test_k1_and_k3_average_to_the_same_divergence():
    # Exactly, not by sampling: the expectation over pi of either estimate is KL(pi || pi_ref).
    torch.manual_seed(0)
    pi, ref = torch.randn(2, 9, dtype=torch.float64).log_softmax(dim=-1)
    exact = (pi.exp() * (pi - ref)).sum()
    for estimate in (kl_k1, kl_k3):
        torch.testing.assert_close((pi.exp() * estimate(pi, ref)).sum(), exact, rtol=1e-12, atol=1e-14)


def test_shaped_rewards_by_hand():
    # k1 = .2 -.4 .6 on the first row: -.5 * k1 = -.1 .2 -.3, and the reward 1 on token 3 -> .7.
    # The second row has one token: -.5 * .2 + .25 = .15; its padding holds junk and stays zero.
    logprobs = tensor([[-1.0, -1.4, -0.4], [-0.8, math.nan, 5.0]]).requires_grad_()
    ref = tensor([[-1.2, -1.0, -1.0], [-1.0, 7.0, math.inf]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    got = kl_shaped_rewards(tensor([1.0, 0.25]), logprobs, ref, mask, 0.5)
    torch.testing.assert_close(got, tensor([[-0.1, 0.2, 0.7], [0.15, 0, 0]]), rtol=1e-12, atol=1e-15)
    assert not got.requires_grad


def test_without_a_coefficient_the_return_is_the_reward_on_every_token():
    torch.manual_seed(0)
    mask = torch.arange(5)[None] < torch.tensor([5, 1, 3])[:, None]
    logprobs, ref = torch.randn(2, 3, 5)
    rewards = torch.tensor([1.0, 0.0, 0.5])
    shaped = kl_shaped_rewards(rewards, logprobs, ref, mask, 0.0)
    assert shaped.dtype == torch.float32
    advantages, _ = gae(shaped, torch.zeros_like(shaped), mask, 1.0, 1.0)
    assert torch.equal(advantages, rewards[:, None] * mask)


def test_shaped_rewards_refuse_what_they_cannot_use():
    zeros, mask = torch.zeros(2, 3), torch.tensor([[True, True, False], [True, False, False]])
    with pytest.raises(ValueError, match="kl_coef"):
        kl_shaped_rewards(zeros[:, 0], zeros, zeros, mask, -0.1)
    with pytest.raises(ValueError, match="rewards: expected shape"):
        kl_shaped_rewards(zeros, zeros, zeros, mask, 0.1)
    with pytest.raises(ValueError, match="ref_logprobs: expected shape"):
        kl_shaped_rewards(zeros[:, 0], zeros, zeros[:, :1], mask, 0.1)


def test_a_response_without_a_token_has_nowhere_to_put_its_reward():
    # As the group that stands in where dynamic sampling has left none.
    zeros, mask = torch.zeros(2, 3), torch.tensor([[True, True, False], [False] * 3])
    got = kl_shaped_rewards(torch.ones(2), zeros, zeros, mask, 0.1)
    assert got.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_the_reward_stands_on_the_last_sampled_token_and_inserted_ones_are_not_penalised():
    # k1 = .2 at the first token, .6 at the third; -.5 * k1 = -.1 and -.3; the reward 1 on the third -> .7.
    logprobs = tensor([[-1.0, math.nan, -0.4, 5.0]])
    ref = tensor([[-1.2, -1.0, -1.0, math.inf]])
    mask = torch.tensor([[True, False, True, False]])
    got = kl_shaped_rewards(tensor([1.0]), logprobs, ref, mask, 0.5)
    torch.testing.assert_close(got, tensor([[-0.1, 0, 0.7, 0]]), rtol=1e-12, atol=1e-15)
