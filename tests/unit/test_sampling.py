"""Drawing tokens: frequencies, edges, and the support under top-p and top-k."""

from __future__ import annotations

import math

import pytest
import torch

from pipo.functional.cut import keep_top
from pipo.records.cut import Cut
from pipo.rollout.sampling import BLOCK, invert_cdf, sample_tokens


def cut(*, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0) -> Cut:
    return Cut(top_p=top_p, top_k=top_k, min_p=min_p)


ALL = cut()


@pytest.mark.parametrize("size", [7, 2 * BLOCK, 2 * BLOCK + 1, 5000])
def test_the_inverse_is_exact_on_the_cumulative_sums(size):
    """Integer weights make the cumulative sums exact: token i owns [c_{i-1}, c_i) of the total."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(0, 4, (size,), generator=generator).double()
    weights[size // 2] = 1
    cumulative = weights.cumsum(0)
    total = int(cumulative[-1])
    # The middle of every unit of mass, one row each.
    uniform = (torch.arange(total, dtype=torch.float64) + 0.5) / total
    expected = torch.searchsorted(cumulative, torch.arange(total) + 0.5, right=True)
    got = invert_cdf(weights.float().expand(total, -1), uniform)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("size", [9, 3000])
def test_no_token_of_weight_zero_at_either_end(size):
    weights = torch.zeros(2, size)
    weights[:, size // 3] = 1e-30
    weights[:, size // 2] = 1.0
    uniform = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    assert invert_cdf(weights, uniform).tolist() == [size // 3, size // 2]


@pytest.mark.parametrize("size", [300, 3000])
def test_the_largest_uniform_number_draws_the_last_token_with_weight(size):
    """1 - 2^-53 of a total is never rounded to the total, whatever that is."""
    weights = torch.rand(500, size, generator=torch.Generator().manual_seed(0))
    weights[:, -20:] = 0
    uniform = torch.full((500,), 1.0 - 2**-53, dtype=torch.float64)
    assert (invert_cdf(weights, uniform) == size - 21).all()


@pytest.mark.parametrize("size", [9, 3000])
def test_a_row_that_is_no_number_costs_itself(size):
    logits = torch.zeros(2, size)
    logits[0, 1], logits[1, 4] = torch.nan, 50
    tokens, logprobs = sample_tokens(logits, torch.tensor([0.5, 0.5], dtype=torch.float64), 1.0, ALL)
    assert tokens.tolist() == [size - 1, 4]
    assert logprobs.isnan().tolist() == [True, False]


def test_frequencies_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    draws = 40_000
    uniform = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = sample_tokens(logits.expand(draws, -1), uniform, 1.0, ALL)
    expected = logits.softmax(1)[0]
    shares = torch.bincount(tokens, minlength=4) / draws
    # Four standard errors of a share: 4 * sqrt(.25 / 40000) = .01.
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.01)
    torch.testing.assert_close(logprobs, logits.log_softmax(1)[0][tokens], rtol=0, atol=1e-6)


def test_log_probabilities_are_at_the_temperature_and_among_what_is_kept():
    """At temperature 1/2 the logits are .6 2 -.4, so e^.6 / (e^.6 + e^2) of the two that top-k keeps."""
    logits = torch.tensor([[0.3, 1.0, -0.2]])
    uniform = torch.tensor([0.1], dtype=torch.float64)
    odds = [math.exp(2 * each) for each in (0.3, 1.0, -0.2)]
    two, one = odds[0] + odds[1], odds[1]
    for keep, drawn, among in ((ALL, 0, sum(odds)), (cut(top_k=2), 0, two), (cut(top_k=1), 1, one)):
        token, logprob = sample_tokens(logits, uniform, 0.5, keep)
        assert token.item() == drawn
        assert logprob.item() == pytest.approx(math.log(odds[drawn] / among), abs=1e-6)
    token, logprob = sample_tokens(logits, uniform, 0.0, cut(top_k=2))
    assert token.item() == 1
    torch.testing.assert_close(logprob, logits.log_softmax(1)[0, token], rtol=0, atol=1e-6)


def test_logprobs_over_a_large_vocabulary_are_those_of_float64():
    """The library's softmax of such rows is off by up to 1.7e-5; the sum is taken again."""
    logits = 3 * torch.randn(8, 151_936, generator=torch.Generator().manual_seed(0))
    uniform = torch.linspace(0.01, 0.99, 8, dtype=torch.float64)
    tokens, logprobs = sample_tokens(logits, uniform, 1.0, ALL)
    exact = logits.double().log_softmax(1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), exact, rtol=0, atol=2e-6)


def test_top_p_top_k_and_min_p_keep_the_right_tokens():
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3]])

    def kept(**options: float) -> list[int]:
        return (keep_top(weights, cut(**options)) > 0)[0].nonzero()[:, 0].tolist()

    assert keep_top(weights, cut(top_k=2)).tolist() == [[0, pytest.approx(0.4), 0, pytest.approx(0.3)]]
    # .4 alone does not reach .65, .4 + .3 does.
    assert kept(top_p=0.65) == [1, 3]
    assert kept(top_p=1e-9) == [1]
    # Half of .4 is .2, which stays; .1 goes. Of what is left, .4 is .44 and .4 + .3 is .78.
    assert kept(min_p=0.5) == [1, 2, 3]
    assert kept(min_p=0.5, top_p=0.77) == [1, 3]
    # As vLLM: top-p counts in what top-k left, where .4 is .4 / .7 = .57.
    assert kept(top_p=0.55, top_k=2) == [1]
    assert keep_top(weights, ALL) is weights
