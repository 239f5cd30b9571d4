"""Truncated importance sampling between sampler and trainer."""

from __future__ import annotations

import math

import pytest
import torch

from pipo.functional.importance import ImportanceCorrection, importance_weights
from pipo.functional.surrogate import ClipRange, clipped_surrogate_loss

LN = torch.log(torch.tensor([0.5, 0.2, 0.9, 0.4])).view(2, 2)
MASK = torch.tensor([[True, True], [True, False]])


def weights(trainer, sampler, level, cap=2.0, mask=MASK):
    return importance_weights(trainer, sampler, mask, ImportanceCorrection(level=level, cap=cap))


@pytest.mark.parametrize("level", ["none", "token", "sequence"])
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
