"""The scaling factors, against published values, and against the product's own advantages by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipo.functional.advantages import group_attribution, group_relative_advantages
from pipo.functional.theory import (
    batch_progress_ratio,
    end_limit,
    group_scaling,
    improvement_scaling,
    mixed_probability,
)


@pytest.mark.parametrize(
    ("group_size", "p", "expected"),
    [  # the formula of the paper, evaluated with exact rational weights
        (8, 0.001, 331.40853),
        (8, 0.01, 33.76936),
        (8, 0.1, 4.08702),
        (8, 0.5, 1.87027),
        (128, 0.001, 90.4429),
        (128, 0.01, 11.41672),
        (128, 0.1, 3.29595),
        (128, 0.5, 1.99214),
    ],
)
def test_group_scaling_has_the_published_values(group_size, p, expected):
    # Five decimals are given (four for 90.4429).
    assert group_scaling(p, group_size) == pytest.approx(
        expected, abs=5.1e-5 if expected == 90.4429 else 5.1e-6
    )
    assert group_scaling(1 - p, group_size) == pytest.approx(group_scaling(p, group_size), rel=1e-9)
    ratio = group_scaling(p, group_size, sample_std=True) / group_scaling(p, group_size)
    assert ratio == pytest.approx(np.sqrt((group_size - 1) / group_size), rel=1e-14)


def test_group_scaling_matches_the_golden_values(golden):
    for case in golden["eta"]:
        assert group_scaling(case["p"], case["G"]) == pytest.approx(case["eta"], rel=1e-9), case


@pytest.mark.parametrize(("group_size", "limit"), [(8, 0.330719), (128, 0.088042)])
def test_limits_at_the_ends(group_size, limit):
    assert end_limit(group_size) == pytest.approx(limit, abs=5.1e-7)
    tiny = 1e-9
    assert tiny * group_scaling(tiny, group_size) == pytest.approx(end_limit(group_size), rel=1e-6)
    unconditional = group_scaling(tiny, group_size, mixed_only=False)
    assert unconditional == pytest.approx(np.sqrt(group_size - 1), rel=1e-6)
    ratio = improvement_scaling(tiny, 1.0) / group_scaling(tiny, group_size)
    assert ratio == pytest.approx(batch_progress_ratio(group_size), rel=1e-6)
    # 1.512 at G = 8, as the caveat in the documentation says.
    assert batch_progress_ratio(8) == pytest.approx(1.512, abs=5e-4)


def expected_update(p: float, group_size: int, scores) -> tuple[float, float]:
    """E[mean of score * dlog pi / dp] over all outcomes of a group, in full and given both outcomes."""
    total, mixed = 0.0, 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=group_size):
        rewards = torch.tensor(outcome, dtype=torch.float64)
        chance = p ** sum(outcome) * (1 - p) ** (group_size - sum(outcome))
        slope = rewards / p - (1 - rewards) / (1 - p)
        total += chance * float((scores(rewards) * slope).mean())
        mixed += chance * (0 < sum(outcome) < group_size)
    return total, total / mixed


@pytest.mark.parametrize("p", [0.03, 0.4, 0.9])
@pytest.mark.parametrize("group_size", [2, 5, 8])
def test_the_factors_are_those_of_the_advantages_in_use(p, group_size):
    def advantages(rewards):
        return group_relative_advantages(rewards, group_size, eps=0.0) if rewards.std() > 0 else rewards * 0

    full, conditional = expected_update(p, group_size, advantages)
    assert full == pytest.approx(group_scaling(p, group_size, mixed_only=False, sample_std=True), rel=1e-12)
    assert conditional == pytest.approx(group_scaling(p, group_size, sample_std=True), rel=1e-12)

    def attribution(rewards):
        return group_attribution(advantages(rewards), group_size)

    full, conditional = expected_update(p, group_size, attribution)
    assert conditional == pytest.approx(improvement_scaling(p, 1.0), rel=1e-12)
    assert full / conditional == pytest.approx(mixed_probability(p, group_size), rel=1e-12)
    assert mixed_probability(p, group_size) == pytest.approx(
        1 - p**group_size - (1 - p) ** group_size, rel=1e-12
    )


def test_the_querys_own_improvement_keeps_the_factor_bounded():
    p = np.linspace(1e-4, 1 - 1e-4, 2001)
    bound = 3.0
    assert improvement_scaling(p, bound * np.minimum(p, 1 - p)).max() <= bound + 1e-12


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="inside"):
        group_scaling([0.5, 1.0], 8)
    with pytest.raises(ValueError, match="group_size"):
        group_scaling(0.5, 1)
