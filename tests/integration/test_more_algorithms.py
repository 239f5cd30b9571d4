"""Methods beyond the paper's own, as configured, with and without PIPO on a toy.

On the embedded model they run in ``test_algorithms.py``.
"""

from __future__ import annotations

import math

import pytest

from tests import toy
from tests.built import built

ALGORITHMS = ("gmpo", "sapo", "opo", "maxrl", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "dppo")


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_with_and_without_policy_improvement(compose_config, algo):
    """Two iterations fill a window of two; from the third on there are retrospective updates."""
    cfg = compose_config(f"algo={algo}", "output_dir=x")
    runs = {}
    for name, loop in (("none", []), ("default", [toy.pipo(window=2)])):
        record = toy.Record()
        model = toy.module(built(cfg, "algo.objective"), mini_batch=8)
        toy.fit(model, [*loop, record], 4)
        runs[name] = record.metrics
    for rows in runs.values():
        assert len(rows) == 4
        assert all(math.isfinite(value) for row in rows for value in row.values())
        assert all(row["policy/grad_norm"] > 0 for row in rows)
    applied = [row for row in runs["default"] if row["pipo/applied"] == 1]
    assert applied
    assert all(row["pipo/grad_norm"] > 0 for row in applied)
    # Before the window is full the runs are one and the same.
    same = ("train/reward", "policy/loss", "policy/grad_norm")
    assert all(runs["none"][i][key] == runs["default"][i][key] for i in range(2) for key in same)
