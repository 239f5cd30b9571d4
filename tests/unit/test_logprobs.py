"""The row-block head against log_softmax, values and gradients."""

from __future__ import annotations

import pytest
import torch

from pipo.lm import logprobs
from pipo.lm.logprobs import _BlockwiseLogprobs, _FusedLogprobs, token_logprobs


@pytest.fixture(params=[False, True], ids=["as on a CPU", "as on a GPU"])
def gpu(request, monkeypatch) -> bool:
    """A GPU's way, which computes on a CPU as well, with blocks of the size that a test asks for."""
    monkeypatch.setattr(logprobs, "on_gpu", lambda device: request.param)
    monkeypatch.setattr(logprobs, "GPU_TILE", 1)
    return request.param


def set_block(monkeypatch, elements: int) -> None:
    for name in ("BLOCK_LOGITS", "GPU_BLOCK_LOGITS"):
        monkeypatch.setattr(logprobs, name, elements)


@pytest.mark.parametrize("rows", [1, 7, 26])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_blocks_equal_the_plain_head(monkeypatch, rows, temperature, gpu):
    torch.manual_seed(0)
    hidden = torch.randn(rows, 16, dtype=torch.float64).float().requires_grad_()
    weight = torch.randn(301, 16).requires_grad_()
    tokens = torch.randint(0, 301, (rows,))
    upstream = torch.randn(rows)
    expected = (hidden @ weight.t() / temperature).log_softmax(1).gather(1, tokens[:, None])[:, 0]
    wanted = torch.autograd.grad(expected, (hidden, weight), upstream)
    for rows_in_a_block in (0, 7, 100):  # a row is the least
        set_block(monkeypatch, rows_in_a_block * 301)
        got = token_logprobs(hidden, weight, tokens, temperature)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(torch.autograd.grad(got, (hidden, weight), upstream), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_large_vocabulary_is_exact_to_float32(monkeypatch):
    """The library's log_softmax of such rows is off by up to 1.7e-5; the last token is e^-300 unlikely."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 8, generator=generator), torch.randn(151_936, 8, generator=generator)
    hidden[:, 0], weight[:, 0], tokens = 0, 0, torch.arange(6)
    hidden[5, 0], weight[5, 0] = 1, -300
    exact = (hidden.double() @ weight.double().t()).log_softmax(1).gather(1, tokens[:, None])[:, 0]
    assert exact[5] < -300
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 2 * 151_936)
    got = token_logprobs(hidden, weight, tokens, 1.0)
    torch.testing.assert_close(got.double(), exact, rtol=2e-7, atol=2e-6)


def test_no_rows_give_zero_gradients(gpu):
    hidden, weight = torch.zeros(0, 4, requires_grad=True), torch.ones(9, 4, requires_grad=True)
    token_logprobs(hidden, weight, torch.zeros(0, dtype=torch.int64), 1.0).sum().backward()
    assert (weight.grad == 0).all()


def test_confident_tokens_keep_their_gradient_in_bfloat16(monkeypatch, gpu):
    """A probability of .999 is 1 in bfloat16; the gradient is what is missing to 1."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(301, 64, generator=generator).bfloat16()
    tokens = torch.randint(0, 301, (40,), generator=generator)
    hidden = (weight[tokens].detach() * 0.25).requires_grad_()
    exact = (hidden.double() @ weight.double().t()).log_softmax(1).gather(1, tokens[:, None])[:, 0]
    assert exact.exp().median() > 0.999
    wanted = torch.autograd.grad(exact.sum(), hidden)[0].double()
    errors = []
    for rows_in_a_block in (7, 1000):  # ours, and the library's on the whole matrix
        set_block(monkeypatch, rows_in_a_block * 301)
        got = torch.autograd.grad(token_logprobs(hidden, weight, tokens, 1.0).sum(), hidden)[0].double()
        errors.append(((got - wanted).norm(dim=1) / wanted.norm(dim=1)).median())
    assert errors[0] < 0.03
    assert errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
def test_many_blocks_in_bfloat16_add_up_in_float32(monkeypatch, weights):
    """2,000 contributions of one sign: a sum in bfloat16 stands still after a few hundred of them."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(31, 8, generator=generator).bfloat16().to(weights).requires_grad_()
    hidden = torch.rand(2000, 8, generator=generator).bfloat16().requires_grad_()
    tokens = torch.zeros(2000, dtype=torch.int64)
    exact = (hidden.double() @ weight.double().t()).log_softmax(1)[:, 0]
    wanted = torch.autograd.grad(exact.sum(), weight)[0]
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 1)
    (got,) = torch.autograd.grad(token_logprobs(hidden, weight, tokens, 1.0).sum(), weight)
    assert got.dtype == weights
    # Each factor is rounded to 8 bits; the rounding of a bfloat16 gradient itself is .4 %.
    assert (got - wanted).abs().max() / wanted.abs().max() < 0.005


@pytest.mark.parametrize("rows_in_a_block", [4, 100])
def test_of_the_blocks_only_the_last_is_kept_and_not_computed_again(monkeypatch, rows_in_a_block, gpu):
    products = []
    head_logits = logprobs.head_logits
    monkeypatch.setattr(
        logprobs,
        "head_logits",
        lambda hidden, *rest: products.append(len(hidden)) or head_logits(hidden, *rest),
    )
    set_block(monkeypatch, rows_in_a_block * 301)
    hidden, weight = torch.randn(10, 16).requires_grad_(), torch.randn(301, 16)
    # At a temperature of 1 a GPU's way takes the product as it is.
    way = _FusedLogprobs if gpu else _BlockwiseLogprobs
    total = way.apply(hidden, weight, torch.arange(10), 0.9).sum()
    forward, products[:] = list(products), []
    (first,) = torch.autograd.grad(total, hidden, retain_graph=True)
    assert (forward, products) == {4: ([4, 4, 2], [4, 4]), 100: ([10], [])}[rows_in_a_block]
    # A second backward pass has no block at hand, and computes all.
    (second,) = torch.autograd.grad(total, hidden)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


def test_float64_stays_float64_and_what_needs_no_gradient_gets_none(monkeypatch, gpu):
    set_block(monkeypatch, 1)
    hidden, weight = torch.randn(5, 4).double().requires_grad_(), torch.randn(9, 4).double()
    tokens = torch.arange(5)
    got = token_logprobs(hidden, weight, tokens, 0.7)
    expected = (hidden @ weight.t() / 0.7).log_softmax(1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)
    got.sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None
