"""The controls: retrospective updates as often as with feedback, but their coefficient does not know it."""

from __future__ import annotations

import pytest

from pipo.functional.policy_improvement import policy_improvement_feedback, with_random_sign, without_feedback
from tests import toy


def test_coins_keep_the_size_of_the_feedback_and_lose_its_direction():
    feedback = policy_improvement_feedback(0.9, [0.1, 0.2, 0.6], 0.25)
    tosses = [with_random_sign(feedback, 0.25, None, seed).coefficient for seed in range(2000)]
    assert set(tosses) == {feedback.progress, -0.25 * feedback.progress}
    # Binomial(2000, 1/2): 1000 +- 5 standard deviations of 22.4.
    assert 888 <= sum(toss > 0 for toss in tosses) <= 1112
    assert with_random_sign(feedback, 0.25, None, 3) == with_random_sign(feedback, 0.25, None, 3)
    assert with_random_sign(feedback, 0.25, 0.5, 3).coefficient in (0.5, -0.125)


def test_a_window_that_does_not_vary_stays_undefined():
    undefined = policy_improvement_feedback(0.9, [0.5, 0.5, 0.5], 0.1)
    assert without_feedback(undefined, 2.0) is undefined
    assert with_random_sign(undefined, 0.1, None, 1) is undefined


@pytest.mark.parametrize("kind", ["constant", "random_sign"])
def test_controls_update_when_the_method_would_and_report_both_numbers(kind):
    record = toy.Record()
    toy.fit(toy.module(), [record, toy.pipo(window=2, feedback=kind, constant=0.7)], 8)
    shown = [m for m in record.metrics if "pipo/progress" in m]
    assert len(shown) >= 4
    for metrics in shown:
        progress, coefficient = metrics["pipo/progress"], metrics["pipo/coefficient"]
        if kind == "constant":
            assert coefficient == pytest.approx(0.7)
        else:
            size = abs(progress)
            assert any(coefficient == pytest.approx(c, rel=1e-6) for c in (size, -0.1 * size))


def test_a_constant_of_zero_is_the_baseline():
    baseline, control = toy.Record(), toy.Record()
    toy.fit(toy.module(), [baseline], 5)
    toy.fit(toy.module(), [control, toy.pipo(window=2, feedback="constant", constant=0.0)], 5)
    for one, other in zip(baseline.weights, control.weights, strict=True):
        assert all((one[name] == other[name]).all() for name in one)
