"""Step control: the rule by hand, its point of rest at any batch size, and what is undone."""

from __future__ import annotations

import math
import random

import pytest

from pipo.callbacks.step_control import objection
from pipo.callbacks.step_options import Rejection
from pipo.functional.improvement import Improvement
from pipo.functional.step_control import StepRule, StepSize, followed, shrunk

RULE = StepRule(
    price=8.0, first_gain=0.35, least_gain=0.1, most_evidence=2.0, least_factor=1e-4, most_factor=1e4
)


def measured(change: float, error: float, eta: float) -> Improvement:
    return Improvement(change=change, error=error, cost=0.0025 * eta**2, distance=0.0, spread=0.0, prompts=16)


def test_by_hand():
    size = followed(StepSize(), 5.0, RULE)
    assert size == StepSize(log_factor=0.35 * 2, turns=0, sign=1)
    size = followed(size, -1.0, RULE)  # first turn: half the gain
    assert size.log_factor == pytest.approx(0.7 - 0.35 / 2)
    size = followed(size, 0.0, RULE)
    assert (size.turns, size.sign) == (1, -1)  # nothing is no turn
    for evidence in (1.0, -1.0, 1.0, -1.0):
        size = followed(size, evidence, RULE)
    assert size.turns == 5
    assert followed(size, 1.0, RULE).log_factor == pytest.approx(size.log_factor + 0.1)  # .35 / 7 is less
    assert followed(size, math.nan, RULE) == size


def test_the_factor_stays_within_its_bounds():
    size = StepSize()
    for _ in range(100):
        size = followed(size, 9.0, RULE)
    assert size.factor == pytest.approx(1e4)
    for _ in range(200):
        size = followed(size, -9.0, RULE)
    assert size.factor == pytest.approx(1e-4)
    assert shrunk(size, 0.5, RULE) == size
    assert shrunk(StepSize(turns=3, sign=1), 0.5, RULE) == StepSize(log_factor=math.log(0.5), turns=3, sign=1)


@pytest.mark.parametrize("prompts", [4, 16, 128, 1024])
@pytest.mark.parametrize("start", [-5.0, 5.0])
def test_the_point_of_rest_is_the_same_for_every_batch_size(prompts, start):
    """A step of length eta gains .02 eta and costs .0025 eta^2, which a price of 8 balances at eta = 1.

    The error of one prompt is .1 eta, so that a batch of 16 sees the gain at .8 standard errors, one of 4 at
    .4. From e^5 times too short and too long, the mean of log eta over the last 3,000 of 4,000 iterations is
    0 but for what noise does to a mean of log eta: the rule is unbiased in z, which is concave in log eta.
    """
    noise, size = random.Random(prompts), StepSize(log_factor=start)
    seen = []
    for _ in range(4000):
        eta = size.factor
        error = 0.1 * eta / math.sqrt(prompts)
        change = noise.gauss(0.02 * eta, error)
        found = Improvement(
            change=change, error=error, cost=0.0025 * eta**2, distance=0.0, spread=0.0, prompts=16
        )
        size = followed(size, found.evidence_above(RULE.price), RULE)
        seen.append(size.log_factor)
    assert sum(seen[1000:]) / 3000 == pytest.approx(0, abs=0.12)


def test_where_nothing_is_left_to_gain_the_rate_falls_like_one_over_the_time():
    """E[z] = -8 * .0025 eta^2 / (.025 eta) = -.8 eta: eta falls as 1 / (1 + .1 * .8 t), from eta = 1."""
    size = StepSize(turns=1000)
    factors = []
    for _ in range(4000):
        eta = size.factor
        found = Improvement(
            change=0.0, error=0.025 * eta, cost=0.0025 * eta**2, distance=0.0, spread=0.0, prompts=16
        )
        size = followed(size, found.evidence_above(RULE.price), RULE)
        factors.append(size.factor)
    assert factors[999] == pytest.approx(1 / 81, rel=0.05)
    assert factors[3999] == pytest.approx(1 / 321, rel=0.05)


def test_objections():
    limits = Rejection(most_spread=0.7, most_harm=3.0, shrink=0.5)

    def found(**changes: float) -> Improvement:
        fine = {"change": 0.1, "error": 0.05, "cost": 0.0, "distance": 0.0, "spread": 0.1, "prompts": 1000}
        return Improvement(**{**fine, **changes})

    assert objection(limits, found(), 0.2, 0.4) is None
    # Student's t with 999 degrees of freedom leaves .00135 below -3.01; with 3 below -9.2.
    assert objection(limits, found(change=-0.150), 0.2, 0.4) is None
    assert "-0.1510, -3.0 standard errors" in str(objection(limits, found(change=-0.151), 0.5, 0.4))
    assert objection(limits, found(change=-0.45, prompts=4), 0.2, 0.4) is None
    assert "did harm" in str(objection(limits, found(change=-0.47, prompts=4), 0.2, 0.4))
    assert "spread 0.71 nats" in str(objection(limits, found(spread=0.71), 0.5, 0.4))
    assert objection(limits, found(spread=math.nan), 0.5, 0.4) is not None
    assert "the mean was 0.400" in str(objection(limits, None, 0.0, 0.4))
    assert objection(limits, None, 0.3, 0.4) is None  # of other prompts, so that it says nothing
    assert objection(limits, None, 0.0, None) is None
