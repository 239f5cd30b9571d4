"""Step control: the rule by hand, its point of rest at any batch size, and what is undone."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from pipo.callbacks.step_control import objection
from pipo.callbacks.step_options import Rejection
from pipo.functional.improvement import Improvement
from pipo.functional.step_control import StepRule, StepSize, followed, shrunk

RULE = StepRule(
    slope_left=0.9, first_gain=0.35, least_gain=0.1, most_evidence=2.0, least_factor=1e-4, most_factor=1e4
)


def measured(eta: float, gain: float, noise: random.Random | None, prompts: int) -> Improvement:
    """What a step of length eta shows: the slope falls from gain eta by .002 eta^2.

    One prompt sees both slopes with the same noise of .1 eta, and the second with .05 eta^2 more: about what
    the embedded model shows, where eta = 1 is its best fixed rate.
    """
    both, more = 0.1 * eta / math.sqrt(prompts), 0.05 * eta**2 / math.sqrt(prompts)
    before = gain * eta + (noise.gauss(0, both) if noise else 0)
    after = before - 0.002 * eta**2 + (noise.gauss(0, more) if noise else 0)
    return Improvement(
        change=(before + after) / 2,
        error=both,
        slope_before=before,
        slope_after=after,
        variance_before=both**2,
        variance_after=both**2 + more**2,
        covariance=both**2,
        distance=0.0,
        spread=0.0,
        prompts=prompts,
    )


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


@pytest.mark.parametrize(("prompts", "most"), [(4, 0.5), (16, 0.4), (128, 0.1), (1024, 0.1)])
@pytest.mark.parametrize("start", [-5.0, 5.0])
def test_the_point_of_rest_is_nearly_the_same_for_every_batch_size(prompts, most, start):
    """The slope falls from .02 eta to .02 eta - .002 eta^2, which is nine tenths of it at eta = 1.

    z is less steep above it than below, because its error grows faster than eta; so chance, of which few
    prompts have more, lifts the mean of log eta: by .4 with 4 prompts, a factor of 1.5. From e^5 too short
    and too long, the mean of the last 3,000 of 4,000 iterations.
    """
    noise, size = random.Random(prompts), StepSize(log_factor=start)
    seen = []
    for _ in range(4000):
        found = measured(size.factor, 0.02, noise, prompts)
        size = followed(size, found.evidence_of_slope(RULE.slope_left), RULE)
        seen.append(size.log_factor)
    assert -0.05 < sum(seen[1000:]) / 3000 < most


def test_where_nothing_is_left_to_gain_the_rate_falls_like_one_over_the_time():
    """Z = -.002 eta^2 / (.01 eta / 4) = -.8 eta for small eta: 1 / eta grows by .1 * .8 per iteration."""
    size = StepSize(turns=1000)
    factors = []
    for _ in range(4000):
        found = measured(size.factor, 0.0, None, 16)
        size = followed(size, found.evidence_of_slope(RULE.slope_left), RULE)
        factors.append(size.factor)
    assert 1 / factors[3999] - 1 / factors[999] == pytest.approx(0.08 * 3000, rel=0.01)


def test_objections():
    limits = Rejection(most_spread=0.7, most_harm=3.0, shrink=0.5)

    def found(**changes: float) -> Improvement:
        return replace(
            measured(1.0, 0.1, None, 1000), **{"change": 0.1, "error": 0.05, "spread": 0.1, **changes}
        )

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
