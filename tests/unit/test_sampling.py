"""Drawing tokens: frequencies, edges, and the support under top-p and top-k."""

from __future__ import annotations

import pytest
import torch

from pipo.rollout.sampling import BLOCK, invert_cdf, keep_top, sample_tokens


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


def test_frequencies_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    draws = 40_000
    uniform = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = sample_tokens(logits.expand(draws, -1), uniform, 1.0, 1.0, 0)
    expected = logits.softmax(1)[0]
    shares = torch.bincount(tokens, minlength=4) / draws
    # Four standard errors of a share: 4 * sqrt(.25 / 40000) = .01.
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.01)
    torch.testing.assert_close(logprobs, logits.log_softmax(1)[0][tokens], rtol=0, atol=1e-6)


def test_temperature_scales_the_reported_logprobs_and_cuts_do_not():
    logits = torch.tensor([[0.3, 1.0, -0.2]])
    uniform = torch.tensor([0.5], dtype=torch.float64)
    for top_p, top_k in ((1.0, 0), (0.5, 0), (1.0, 1)):
        token, logprob = sample_tokens(logits, uniform, 0.5, top_p, top_k)
        expected = (logits / 0.5).log_softmax(1)[0, token]
        torch.testing.assert_close(logprob, expected, rtol=0, atol=1e-6)
    token, logprob = sample_tokens(logits, uniform, 0.0, 1.0, 0)
    assert token.item() == 1
    torch.testing.assert_close(logprob, logits.log_softmax(1)[0, token], rtol=0, atol=1e-6)


def test_logprobs_over_a_large_vocabulary_are_those_of_float64():
    """The library's softmax of such rows is off by up to 1.7e-5; the sum is taken again."""
    logits = 3 * torch.randn(8, 151_936, generator=torch.Generator().manual_seed(0))
    uniform = torch.linspace(0.01, 0.99, 8, dtype=torch.float64)
    tokens, logprobs = sample_tokens(logits, uniform, 1.0, 1.0, 0)
    exact = logits.double().log_softmax(1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), exact, rtol=0, atol=2e-6)


def test_top_p_and_top_k_keep_the_right_tokens():
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert keep_top(weights, 1.0, 2).tolist() == [[0, pytest.approx(0.4), 0, pytest.approx(0.3)]]
    # .4 alone does not reach .65, .4 + .3 does.
    assert (keep_top(weights, 0.65, 0) > 0).tolist() == [[False, True, False, True]]
    assert (keep_top(weights, 1e-9, 0) > 0).tolist() == [[False, True, False, False]]
    assert keep_top(weights, 1.0, 0) is weights
