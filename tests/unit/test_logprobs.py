"""The row-block head against log_softmax, values and gradients."""

from __future__ import annotations

import pytest
import torch

from pipo.modules import logprobs
from pipo.modules.logprobs import token_logprobs


@pytest.mark.parametrize("rows", [1, 7, 26])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_blocks_equal_the_plain_head(monkeypatch, rows, temperature):
    torch.manual_seed(0)
    hidden = torch.randn(rows, 16, dtype=torch.float64).float().requires_grad_()
    weight = torch.randn(301, 16).requires_grad_()
    tokens = torch.randint(0, 301, (rows,))
    upstream = torch.randn(rows)
    expected = (hidden @ weight.t() / temperature).log_softmax(1).gather(1, tokens[:, None])[:, 0]
    wanted = torch.autograd.grad(expected, (hidden, weight), upstream)
    for rows_in_a_block in (0, 7, 100):  # a row is the least
        monkeypatch.setattr(logprobs, "BLOCK_LOGITS", rows_in_a_block * 301)
        got = token_logprobs(hidden, weight, tokens, temperature)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(torch.autograd.grad(got, (hidden, weight), upstream), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_no_rows_give_zero_gradients():
    hidden, weight = torch.zeros(0, 4, requires_grad=True), torch.ones(9, 4, requires_grad=True)
    token_logprobs(hidden, weight, torch.zeros(0, dtype=torch.int64), 1.0).sum().backward()
    assert (weight.grad == 0).all()


def test_confident_tokens_keep_their_gradient_in_bfloat16(monkeypatch):
    """A probability of .999 is 1 in bfloat16; the gradient is what is missing to 1."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(301, 64, generator=generator).bfloat16().requires_grad_()
    tokens = torch.randint(0, 301, (40,), generator=generator)
    hidden = (weight[tokens].detach() * 0.25).requires_grad_()
    exact = (hidden.double() @ weight.double().t()).log_softmax(1).gather(1, tokens[:, None])[:, 0]
    assert exact.exp().median() > 0.999
    wanted = torch.autograd.grad(exact.sum(), hidden)[0].double()
    errors = []
    for rows_in_a_block in (7, 1000):  # ours, and the library's on the whole matrix
        monkeypatch.setattr(logprobs, "BLOCK_LOGITS", rows_in_a_block * 301)
        got = torch.autograd.grad(token_logprobs(hidden, weight, tokens, 1.0).sum(), hidden)[0].double()
        errors.append(((got - wanted).norm(dim=1) / wanted.norm(dim=1)).median())
    assert errors[0] < 0.03
    assert errors[0] < 1.5 * errors[1]


def test_float64_stays_float64_and_what_needs_no_gradient_gets_none(monkeypatch):
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 1)
    hidden, weight = torch.randn(5, 4).double().requires_grad_(), torch.randn(9, 4).double()
    tokens = torch.arange(5)
    got = token_logprobs(hidden, weight, tokens, 0.7)
    expected = (hidden @ weight.t() / 0.7).log_softmax(1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)
    got.sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None
