"""Methods beyond the paper's own, as configured, with and without PIPO on a toy.

On the embedded model they run in ``test_algorithms.py``.
"""

from __future__ import annotations

import math

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.runs.checkpoints import finished_checkpoints
from tests import toy
from tests.built import built

ALGORITHMS = (
    "gmpo",
    "sapo",
    "opo",
    "maxrl",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "dppo",
    "ha_dw",
    "dcpo",
    "spo",
)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_with_and_without_policy_improvement(compose_config, algo):
    """Two iterations fill a window of two; from the third on there are retrospective updates."""
    cfg = compose_config(f"algo={algo}", "output_dir=x")
    runs = {}
    for name, loop, iterations in (("none", [], 2), ("default", [toy.pipo(window=2)], 4)):
        record = toy.Record()
        model = toy.module(built(cfg, "algo.objective"), mini_batch=8)
        toy.fit(model, [*loop, record], iterations)
        runs[name] = record.metrics
    for rows in runs.values():
        assert all(math.isfinite(value) for row in rows for value in row.values())
        assert all(row["policy/grad_norm"] > 0 for row in rows)
    applied = [row for row in runs["default"] if row["pipo/applied"] == 1]
    assert applied
    assert all(row["pipo/grad_norm"] > 0 for row in applied)
    # Before the window is full the runs are one and the same.
    same = ("train/reward", "policy/loss", "policy/grad_norm")
    assert all(runs["none"][i][key] == runs["default"][i][key] for i in range(2) for key in same)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_with_paired_feedback_and_a_controlled_rate(compose_config, algo):
    """From the second iteration on it is measured what the last one did, and the rate follows."""
    cfg = compose_config(f"algo={algo}", "output_dir=x")
    record = toy.Record()
    model = toy.module(built(cfg, "algo.objective"), mini_batch=8, look_back="device")
    toy.fit(model, [toy.step_control(), toy.pipo(window=2, feedback="paired"), record], 5)
    assert all(math.isfinite(value) for row in record.metrics for value in row.values())
    assert any("pipo/improvement" in row for row in record.metrics)
    assert any(row["pipo/applied"] == 1 for row in record.metrics)


@pytest.mark.parametrize("algo", ["ha_dw", "dcpo", "spo"])
def test_what_a_method_remembers_survives_a_resume_bit_for_bit(compose_config, tmp_path, algo):
    cfg = compose_config(f"algo={algo}", "output_dir=x")

    def fit(callbacks, checkpoint=None):
        model = toy.module(built(cfg, "algo.objective"), mini_batch=8)
        toy.fit(model, [toy.pipo(window=2), *callbacks], 4, checkpoint)
        return model

    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx + 1 == 3

    whole, resumed = toy.Record(), toy.Record()
    uninterrupted = fit([whole])
    fit([Stop(), IterationCheckpoint(folder=str(tmp_path), every=100, keep=1, best=False)])
    (checkpoint,) = finished_checkpoints(tmp_path)
    again = fit([resumed], checkpoint)
    first, second = whole.weights[-1], resumed.weights[-1]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.metrics[-1]["policy/loss"] == resumed.metrics[-1]["policy/loss"]
    assert_same(uninterrupted.objective.state_dict(), again.objective.state_dict())


def assert_same(one, other) -> None:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
    else:
        assert one == other
