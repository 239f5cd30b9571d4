"""Estimators of an evaluation: golden values, hand-derived numbers and coverage of the interval."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from pipo.evaluation.statistics import (
    bootstrap_interval,
    bootstrap_means,
    estimate,
    holm,
    mean_at_n,
    pass_at_k,
    sign_flip_p,
    wilson_interval,
)


def test_pass_at_k_matches_the_golden_values(golden: dict[str, Any]) -> None:
    for case in golden["pass_at_k"]:
        value = pass_at_k([case["n"]], [case["c"]], case["k"])
        assert value == pytest.approx([case["value"]], abs=1e-12), case


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
    result = estimate(values, 0.9, 200, seed=5, share=True)
    assert result.value == 0.5
    assert (result.low, result.high) == bootstrap_interval(values, 0.9, 200, seed=5)


def test_proportions_get_wilsons_interval() -> None:
    # 0 of 30 at 95 %: the upper end is z^2 / (n + z^2) with z = 1.959964, so 3.841459 / 33.841459.
    nothing = estimate([0.0] * 30, 0.95, 200, seed=5, share=True)
    assert nothing.low == 0.0
    # The formula leaves 3e-17 there, which is written out in tables.
    assert [wilson_interval(0, n, 0.95)[0] for n in range(1, 300)] == [0.0] * 299
    assert [wilson_interval(n, n, 0.95)[1] for n in range(1, 300)] == [1.0] * 299
    assert nothing.high == pytest.approx(3.841458820694124 / 33.841458820694124, rel=1e-9)
    # By hand for 3 of 10: centre (.3 + .3841459 / 2) / 1.3841459, and the half-width below.
    low, high = wilson_interval(3, 10, 0.95)
    spread = 3.841458820694124 / 10
    half = (0.3 * 0.7 / 10 + spread / 40) ** 0.5 * 3.841458820694124**0.5 / (1 + spread)
    assert (low + high) / 2 == pytest.approx((0.3 + spread / 2) / (1 + spread), rel=1e-9)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-9)
    # Lengths of 0 and 1 token are no proportion.
    assert estimate([1.0] * 5, 0.95, 50, seed=5, share=False).low == 1.0
    with pytest.raises(ValueError, match="4 successes in 3"):
        wilson_interval(4, 3, 0.95)


def test_wilsons_coverage_where_the_bootstrap_fails() -> None:
    # All 2^n outcomes weighted by their probability: exact coverage at p = .05, n = 30 (bootstrap: 78 %).
    n, p = 30, 0.05
    covered = 0.0
    for c in range(n + 1):
        low, high = wilson_interval(c, n, 0.95)
        covered += math.comb(n, c) * p**c * (1 - p) ** (n - c) * (low <= p <= high)
    assert 0.93 <= covered <= 0.99


def brute_force_p(values: list[float]) -> float:
    """Share of all sign patterns whose sum is at least as far from 0, counted one by one."""
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(total >= abs(sum(values)) - 1e-12 for total in sums) / len(sums)


@pytest.mark.parametrize(
    ("values", "by_hand"),
    [
        ([0.125] * 6, 2 / 64),  # only all + and all - reach 6/8
        ([0.5, 0.25, 0.25, 0.125, -0.125, 0.375], None),
        ([0.1, 0.2, -0.3, 0.1, 0.2, -0.3], 1.0),  # the sum is 0, and any sum is at least as far from it
        ([0.5, 0.0, 0.0, 0.0, 0.0, 0.0], 1.0),
        ([0.0] * 6, 1.0),
        ([0.5, 0.5, 0.5, 0.0, 0.0, -0.5], 10 / 16),  # |sum| >= 1 of four: 2 x (1 + 4) of 16
    ],
)
def test_sign_flips_are_all_counted(values: list[float], by_hand: float | None) -> None:
    p = sign_flip_p(values, draws=64, seed=0)
    assert p == brute_force_p(values)
    assert by_hand is None or p == by_hand


def test_drawn_sign_flips_come_near_the_count_of_all() -> None:
    values = list(np.random.default_rng(7).integers(-3, 5, size=14) / 8)  # none is 0
    exact = brute_force_p(values)
    drawn = sign_flip_p(values, draws=2**13, seed=1)
    assert 0.01 < exact < 0.5
    # Four standard errors of a share from 8192 draws.
    assert drawn == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 2**13) ** 0.5)
    assert drawn != exact
    assert sign_flip_p([1.0] * 40, draws=100, seed=0) == 1 / 101  # never 0


def test_the_test_rejects_as_often_as_it_says() -> None:
    # No difference between the models: p below 5 % in at most about 5 % of 400 pairs, sd 4.4.
    generator = np.random.default_rng(2)
    rejected = 0
    for _ in range(400):
        rates = generator.random(30)
        a, b = (generator.binomial(4, rates) / 4 for _ in range(2))
        rejected += sign_flip_p(b - a, draws=500, seed=3) < 0.05
    assert 4 <= rejected <= 20 + 4 * 4.4


def test_the_same_as_scipy() -> None:
    # SciPy 1.17.1: bootstrap(..., method="percentile", rng=default_rng(5)), its first four means, the last,
    # the sum and that by place; permutation_test(..., permutation_type="samples"); binomtest
    values = np.random.default_rng(3).integers(0, 9, size=64) / 8
    means = bootstrap_means(values, 1000, 5).tolist()
    assert [*means[:4], means[-1]] == [0.42578125, 0.5078125, 0.486328125, 0.494140625, 0.435546875]
    # In 512ths, so exactly: all of them, each in its place.
    assert sum(means) == 453.0078125
    assert sum(place * value for place, value in enumerate(means)) == 226031.134765625
    assert bootstrap_interval(values, 0.95, 1000, 5) == pytest.approx((0.37890625, 0.525390625), abs=1e-15)
    deltas = values[:11] - values[11:22]  # two are 0, and turning them counts nothing twice
    assert sign_flip_p(deltas, 2**12, seed=0) == pytest.approx(0.87109375, abs=1e-12)
    assert wilson_interval(0, 30, 0.95) == pytest.approx((0.0, 0.11351339317396875), abs=1e-14)
    assert wilson_interval(3, 10, 0.95) == pytest.approx((0.10779126740630102, 0.6032218525388546), abs=1e-14)
    assert wilson_interval(64, 64, 0.95) == pytest.approx((0.9433759402071946, 1.0), abs=1e-14)
    # Some of k drawn without replacement solve the problem: not none of them. 4 of 13 of 16, and of 7 of 16.
    none = [math.comb(13, 4) / math.comb(16, 4), math.comb(7, 4) / math.comb(16, 4)]
    assert pass_at_k([16, 16], [3, 9], 4) == pytest.approx([1 - each for each in none], abs=1e-13)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04: 4 x .01 = .04, 3 x .02 = .06, 2 x .03 = .06, then not below the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
