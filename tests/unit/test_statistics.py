"""Estimators of an evaluation: golden values, hand-derived numbers and coverage of the interval."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from pipo.evaluation.statistics import bootstrap_interval, estimate, mean_at_n, pass_at_k

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "losses.json").read_text())["cases"]["pass_at_k"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"n{c['n']}-c{c['c']}-k{c['k']}")
def test_pass_at_k_matches_golden(case: dict[str, float]) -> None:
    value = pass_at_k([case["n"]], [case["c"]], int(case["k"]))
    assert value == pytest.approx([case["value"]], abs=1e-12)


def test_pass_at_k_is_the_share_of_subsets_with_a_solution() -> None:
    outcomes = [1, 0, 0, 1, 0, 0]
    for k in range(1, 7):
        subsets = list(itertools.combinations(outcomes, k))
        share = sum(any(subset) for subset in subsets) / len(subsets)
        assert pass_at_k([6], [2], k) == pytest.approx([share], abs=1e-12)


def test_pass_at_k_takes_problems_with_different_sample_counts() -> None:
    # 1 - C(1,2)/C(2,2) = 1;  1 - C(3,2)/C(4,2) = 1 - 3/6;  no solution: 0
    assert pass_at_k([2, 4, 9], [1, 1, 0], 2) == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("samples", "solved", "k", "message"),
    [
        ([8, 4], [1, 1], 5, "pass@5 needs at least 5 samples per problem, got 4"),
        ([8], [1], 0, "k must be >= 1"),
        ([8], [9], 1, "solved samples"),
        ([8], [-1], 1, "solved samples"),
        ([8, 8], [1], 1, "sample counts"),
    ],
)
def test_pass_at_k_refuses(samples: list[int], solved: list[int], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(samples, solved, k)


def test_mean_at_n() -> None:
    assert mean_at_n([[1, 0, 0.5, 0.5], [0, 0, 0, 1]]) == pytest.approx([0.5, 0.25])
    with pytest.raises(ValueError, match="shape"):
        mean_at_n([0.5, 0.5])


@pytest.mark.parametrize("values", [[0.1] * 37, [0.3]])
def test_interval_has_no_width_without_variation(values: list[float]) -> None:
    low, high = bootstrap_interval(values, 0.95, 500, seed=0)
    assert low == high == pytest.approx(values[0], abs=1e-12)


def test_interval_of_two_problems() -> None:
    # Two draws from {0, 1} have mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the middle 95 % reaches from
    # 0 to 1, the middle 40 % is 1/2 alone.
    assert bootstrap_interval([0.0, 1.0], 0.95, 2000, seed=3) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], 0.4, 2000, seed=3) == (0.5, 0.5)


def test_interval_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).random(50)
    first = bootstrap_interval(values, 0.95, 300, seed=1)
    assert first == bootstrap_interval(values, 0.95, 300, seed=1)
    assert first != bootstrap_interval(values, 0.95, 300, seed=2)


def test_interval_width_follows_the_standard_error() -> None:
    # For many problems the mean is normal, so the 95 % interval is mean -+ 1.96 s / sqrt(P).
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(values, 0.95, 20_000, seed=0)
    margin = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.03 * margin)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    # 360 of 400 repetitions are expected at 90 %, with a standard deviation of sqrt(400 * 0.9 * 0.1) = 6;
    # the percentile bootstrap over 60 problems falls about a point short. Four deviations are allowed.
    generator = np.random.default_rng(7)
    hits = 0
    for repetition in range(400):
        difficulty = generator.beta(2, 3, size=60)  # mean 2/5
        values = generator.binomial(8, difficulty) / 8
        low, high = bootstrap_interval(values, 0.9, 400, seed=repetition)
        hits += low <= 0.4 <= high
    assert 360 - 24 <= hits <= 360 + 24


@pytest.mark.parametrize(
    ("values", "confidence", "resamples", "message"),
    [
        ([], 0.95, 10, "one value per problem"),
        ([[0.1]], 0.95, 10, "one value per problem"),
        ([0.1], 1.0, 10, "confidence"),
        ([0.1], 0.95, 0, "resamples"),
    ],
)
def test_interval_refuses(values: list[float], confidence: float, resamples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, confidence, resamples, seed=0)


def test_estimate_joins_mean_and_interval() -> None:
    values = [0.0, 0.25, 1.0, 0.75]
    result = estimate(values, 0.9, 200, seed=5)
    assert result.value == 0.5
    assert (result.low, result.high) == bootstrap_interval(values, 0.9, 200, seed=5)
