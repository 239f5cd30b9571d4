"""Sign agreement of progress and realised change: by hand, with noise that is known, and in a run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipo.callbacks.held_out import HeldOutProblems
from pipo.callbacks.probe import Probe
from pipo.evaluation.agreement import agreement, realised_change
from pipo.evaluation.options import EvaluationPlan
from pipo.runs.run_log import PROBE_FILE
from tests import toy

HOW = {"window": 1, "block": 1, "confidence": 0.95, "resamples": 200, "seed": 0}


def test_change_against_one_iteration_and_against_a_window():
    rewards = [[0.0, 0.2], [0.5, 0.2], [0.5, 0.6], [0.3, 0.9]]
    one = realised_change(rewards)
    assert np.isnan(one[0]).all()
    np.testing.assert_allclose(one[1:], [[0.5, 0.0], [0.0, 0.4], [-0.2, 0.3]], atol=1e-15)
    two = realised_change(rewards, window=2)
    assert np.isnan(two[:2]).all()
    np.testing.assert_allclose(two[2:], [[0.25, 0.4], [-0.2, 0.5]], atol=1e-15)


def test_by_hand():
    # Both prompts always move together, so the probe has no noise between prompts: changes +.1 -.2 +.3 -.1.
    level = np.cumsum([0.2, 0.1, -0.2, 0.3, -0.1])
    rewards = np.stack([level, level + 0.1], axis=1)
    result = agreement([np.nan, 2.0, -1.0, -0.5, -3.0], rewards, **HOW)
    assert result.iterations == 4
    assert result.sign.value == 0.75  # the third disagrees
    # One xi of four and two changes of four are positive: 1/4 * 1/2 + 3/4 * 1/2.
    assert (result.positive_progress, result.positive_change) == (0.25, 0.5)
    assert result.expected == pytest.approx(0.5, abs=1e-15)
    assert result.excess.value == pytest.approx(0.25, abs=1e-15)
    assert (result.ties, result.one_sided) == (0, False)
    # Pearson by its definition.
    xi, change = np.array([2.0, -1.0, -0.5, -3.0]), np.array([0.1, -0.2, 0.3, -0.1])
    a, b = xi - xi.mean(), change - change.mean()
    assert result.correlation.value == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), rel=1e-9)
    assert result.reliability == pytest.approx(1.0, abs=1e-12)
    assert result.sign.low <= 0.75 <= result.sign.high


def test_signs_without_a_relation_agree_by_chance_where_both_are_mostly_positive():
    generator = np.random.default_rng(3)
    xi = generator.normal(1.0, 1.0, size=400)  # 84 % positive
    level = np.cumsum(generator.normal(0.02, 0.02, size=400))  # as many, of other draws
    result = agreement(xi, np.stack([level, level], axis=1), **{**HOW, "block": 5})
    # Phi(1)^2 + (1 - Phi(1))^2 = .841^2 + .159^2.
    assert result.expected == pytest.approx(0.733, abs=0.04)
    assert result.sign.low > 0.6  # far above one half
    assert result.excess.low < 0 < result.excess.high
    assert abs(result.excess.value) < 0.05


def test_one_sign_only_says_nothing_and_says_so():
    level = np.cumsum([0.2, 0.1, 0.2, 0.3, 0.1])  # every change is positive
    result = agreement([np.nan, 1.0, 2.0, -1.0, 3.0], np.stack([level, level], axis=1), **HOW)
    assert (result.sign.value, result.expected) == (0.75, 0.75)  # the share of positive xi
    assert (result.excess.value, result.excess.low, result.excess.high) == (0.0, 0.0, 0.0)
    assert result.one_sided


def test_ties_are_left_out_and_counted():
    # Changes 1/4, 0, 1/4, -1/4, 1/4: exact in binary. The second is a tie, and so is the xi of the third.
    rewards = np.array([0.0, 0.25, 0.25, 0.5, 0.25, 0.5])[:, None]
    result = agreement([np.nan, 1.0, 1.0, 0.0, -1.0, 1.0], rewards, **HOW)
    assert (result.iterations, result.ties, result.sign.value) == (3, 2, 1.0)


def test_a_probe_of_noise_says_so_and_its_interval_holds_one_half():
    generator = np.random.default_rng(1)
    rewards = generator.normal(0.5, 0.2, size=(300, 40))
    result = agreement(generator.normal(size=300), rewards, **{**HOW, "block": 5})
    assert abs(result.reliability) < 0.2
    assert result.sign.low < 0.5 < result.sign.high
    assert result.excess.low < 0 < result.excess.high


def test_a_change_that_follows_the_progress_is_found():
    generator = np.random.default_rng(2)
    xi = generator.normal(size=200)
    level = np.cumsum(0.02 * xi)
    rewards = level[:, None] + generator.normal(0, 0.05, size=(200, 200))
    result = agreement(xi, rewards, **{**HOW, "block": 5})
    # Noise of a change: sqrt(2 / 200) * .05 = .005 against a signal of .02, so 1 - (.005 / .02)^2 / 1.06.
    assert result.reliability == pytest.approx(0.94, abs=0.02)
    assert result.sign.low > 0.8
    assert result.excess.low > 0.3
    assert result.correlation.low > 0.9


@pytest.mark.parametrize(
    ("progress", "rewards", "message"),
    [
        ([1.0, 1.0], [[0.1], [0.1]], "only 0 iterations"),
        ([1.0], [[0.1], [0.2]], "progress values for 2"),
        ([1.0], [0.1], "expected \\[iterations, prompts\\]"),
    ],
)
def test_too_little(progress, rewards, message):
    with pytest.raises(ValueError, match=message):
        agreement(progress, rewards, **HOW)


def test_in_a_run_the_signs_are_those_of_the_logged_numbers(tmp_path):
    plan = EvaluationPlan(
        samples=8, ks=(1,), prompts_per_batch=8, confidence=0.95, resamples=10, majority=False, seed=3
    )
    examples = toy.ToyTask().examples("test")[:6]
    probe = Probe(
        problems=HeldOutProblems(
            task=toy.ToyTask(),
            examples=examples,
            prompt_ids=[(2 + i, 5) for i in range(6)],
            decode=toy.decode,
            encode_reply=toy.encode_reply,
            sampling=toy.sampling(),
        ),
        plan=plan,
        samples=4,
        folder=str(tmp_path),
        start=0,
    )
    record = toy.Record()
    toy.fit(toy.module(), [toy.pipo(window=2), probe, record], 8)
    rows = [json.loads(line) for line in (tmp_path / PROBE_FILE).read_text().splitlines()]
    assert [row["iteration"] for row in rows] == list(range(8))
    means = [np.mean(row["rewards"]) for row in rows]
    compared = 0
    for i, metrics in enumerate(record.metrics):
        assert metrics["probe/reward"] == pytest.approx(means[i], abs=1e-12)
        if i:
            assert metrics["probe/change"] == pytest.approx(means[i] - means[i - 1], abs=1e-12)
        if "pipo/sign_agreement" in metrics:
            compared += 1
            same = (metrics["pipo/progress"] > 0) == (means[i] > means[i - 1])
            assert metrics["pipo/sign_agreement"] == float(same)
    assert compared >= 3
    # The first reward is that of the untouched model, so probing changed nothing before it.
    again = toy.Record()
    toy.fit(toy.module(), [toy.pipo(window=2), again], 8)
    for one, other in zip(record.weights, again.weights, strict=True):
        assert all((one[name] == other[name]).all() for name in one)
