"""Columns and their average, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipo.evaluation.benchmark import Benchmark, NotCovered, average, part_weights
from pipo.evaluation.statistics import bootstrap_interval


def benchmark(**changes: Any) -> Benchmark:
    options = {"name": "b", "parts": ("x", "y", "z"), "average": None, "weights": None, "not_covered": ()}
    return Benchmark(**{**options, **changes})


VALUES = {"x": np.array([1.0, 0.0]), "y": np.array([0.25, 0.25, 1.0, 0.5]), "z": np.array([0.0, 0.2])}


def averaged(made: Benchmark) -> dict[str, Any]:
    return average(made.columns, {"pass@1": VALUES}, 0.95, 500, 7)


def test_without_columns_every_part_counts_the_same() -> None:
    table = averaged(benchmark())
    assert table["pass@1"] == pytest.approx((0.5 + 0.5 + 0.1) / 3)
    assert list(table["columns"]) == ["x", "y", "z"]
    for part in VALUES:  # the very numbers of the part
        entry = table["columns"][part]
        assert entry["pass@1"] == VALUES[part].mean()
        assert tuple(entry["pass@1_interval"]) == bootstrap_interval(VALUES[part], 0.95, 500, 7)


def test_columns_count_the_same_however_many_parts_they_have() -> None:
    made = benchmark(average={"A": ["x"], "B": ["y", "z"]})
    assert averaged(made)["pass@1"] == pytest.approx((0.5 + (0.5 + 0.1) / 2) / 2)
    assert part_weights(made.columns) == {"x": 0.5, "y": 0.25, "z": 0.25}


def test_weights_count_inside_a_column() -> None:
    made = benchmark(average={"A": ["x"], "B": ["y", "z"]}, weights={"y": 3, "z": 1})
    table = averaged(made)
    assert table["columns"]["B"]["pass@1"] == pytest.approx(0.75 * 0.5 + 0.25 * 0.1)
    assert table["columns"]["B"]["shares"] == {"y": 0.75, "z": 0.25}
    assert table["pass@1"] == pytest.approx((0.5 + 0.4) / 2)


def test_the_interval_resamples_each_part_on_its_own() -> None:
    # x and z have the same values. Were their problems drawn together, the mean of both would move like one:
    # two draws from {0, 1} have mean 0, 1/2, 1 with 1/4, 1/2, 1/4, so 0 and 1 lie inside the middle 80 %.
    # Drawn apart, both 0 happens in 1/16, so the middle 80 % reaches from 1/4 to 3/4.
    made = benchmark(parts=("x", "z"))
    values = {"x": np.array([0.0, 1.0]), "z": np.array([0.0, 1.0])}
    table = average(made.columns, {"pass@1": values}, 0.8, 4000, 1)
    assert table["pass@1_interval"] == [0.25, 0.75]
    assert table["columns"]["x"]["pass@1_interval"] == [0.0, 1.0]


def test_what_is_not_covered() -> None:
    missing = (NotCovered(name="live", weight=0.3, why="needs services"),)
    assert benchmark(not_covered=missing).not_covered == missing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ()}, "nothing to score"),
        ({"average": {"A": ["x", "w"], "B": ["y", "z"]}}, r"average: there is no part w; there are x, y, z"),
        ({"average": {"A": ["x", "y"]}}, "average: z would be scored but is in no column"),
        ({"average": {"A": ["x", "y"], "B": ["y", "z"]}}, "average: y is in more than one column"),
        ({"average": {"A": ["x", "y", "z"], "B": []}}, "column B has no parts"),
        ({"weights": {"w": 1.0}}, r"weights: there is no part w; there are x, y, z"),
        ({"average": {"A": ["x", "y", "z"]}, "weights": {"x": 1.0}}, "in column A, y, z has none"),
        ({"weights": {"x": 0.0}}, r"x=0\.0 must be above 0"),
        ({"weights": {"x": float("nan")}}, "must be above 0"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark(**changes)
