"""What ``pipo=authors`` takes from the authors' code at commit 8e8e63f, against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pipo.functional.policy_improvement import policy_improvement_feedback
from pipo.functional.surrogate import ClipRange, clipped_surrogate_loss, plain_minimum_loss
from tests import toy


def test_their_sigma_is_the_populations():
    """.2 and .4 are .1 from their mean: .02 / 2 is the population's variance, .02 / 1 the sample's."""
    theirs = policy_improvement_feedback(0.5, [0.2, 0.4], 0.1, deviation="population")
    assert (theirs.history_std, theirs.progress) == pytest.approx((0.1, 2.0), rel=1e-12)
    paper = policy_improvement_feedback(0.5, [0.2, 0.4], 0.1)
    assert paper.progress == pytest.approx(math.sqrt(2), rel=1e-12)
    assert policy_improvement_feedback(
        0.1, [0.2, 0.4], 0.1, deviation="population"
    ).coefficient == pytest.approx(-0.2)


def test_their_flat_window_has_a_sigma_of_one():
    theirs = policy_improvement_feedback(0.5, [0.3, 0.3], 0.1, deviation="population")
    assert theirs.defined
    assert theirs.coefficient == pytest.approx(0.2, rel=1e-12)
    assert not policy_improvement_feedback(0.5, [0.3, 0.3], 0.1).defined


@pytest.mark.parametrize(
    ("ratio", "reward", "theirs", "paper"),
    [
        (0.5, -1.0, (0.5, 0.5), (0.8, 0.0)),  # below the range: theirs goes on lowering the token
        (1.0, -1.0, (1.0, 1.0), (1.0, 1.0)),
        (1.5, -1.0, (1.2, 0.0), (1.5, 1.5)),  # above it: theirs no longer does
        (0.5, 1.0, (-0.5, -0.5), (-0.5, -0.5)),
        (1.5, 1.0, (-1.2, 0.0), (-1.2, 0.0)),
    ],
)
def test_their_minimum_is_of_the_ratios(ratio, reward, theirs, paper):
    """Loss and slope by log pi, which is nu times the slope by nu; clip range .2 / .2."""
    clip = ClipRange(low=0.2, high=0.2, dual=None)
    for form, (value, slope) in ((plain_minimum_loss, theirs), (clipped_surrogate_loss, paper)):
        logprob = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
        loss = form(logprob.exp(), torch.full((1, 1), reward, dtype=torch.float64), clip)
        (found,) = torch.autograd.grad(loss.sum(), logprob)
        assert (loss.item(), found.item()) == pytest.approx((value, slope), rel=1e-12, abs=1e-12)


def test_only_the_retrospective_update_has_their_form():
    asked = []

    class Watched(type(toy.grpo())):
        def surrogate(self, ratio, logprobs, micro):
            asked.append(micro.plain_minimum)
            return super().surrogate(ratio, logprobs, micro)

    objective = toy.grpo()
    objective.__class__ = Watched
    toy.fit(toy.module(objective), [toy.pipo(window=2, clip="authors")], 3)
    # Two base updates, then the retrospective one before the third.
    assert [asked[0], asked[-1]] == [False, False]
    assert True in asked
    assert asked[: asked.index(True)].count(False) >= 2
