"""The closed loop end to end on a toy: when it acts, what it changes, and that it survives a resume."""

from __future__ import annotations

import statistics

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.modules.hooks import RolloutCallback
from pipo.runs.checkpoints import STATE, finished_checkpoints, iterations_of
from tests import toy


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class RecordUpdates(RolloutCallback):
    """Wraps ``policy_update`` to see every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str, torch.Tensor, float]] = []

    def on_train_start(self, trainer, pl_module) -> None:
        original = pl_module.policy_update

        def spy(batch, *, prefix, **kwargs):
            self.calls.append((trainer.fit_loop.total_batch_idx, prefix, batch, kwargs.get("lr_scale", 1.0)))
            return original(batch, prefix=prefix, **kwargs)

        pl_module.policy_update = spy


def test_first_verification_is_at_iteration_k_plus_one_and_before_the_base_update():
    updates = RecordUpdates()
    toy.fit(toy.module(), [updates, toy.pipo(window=4)], 7)
    order = [(iteration, prefix) for iteration, prefix, *_ in updates.calls]
    # Iterations count from 0 here: with K = 4 the window is full when iteration 4, the fifth, has sampled.
    assert order[:4] == [(i, "policy") for i in range(4)]
    assert order[4:6] == [(4, "pipo"), (4, "policy")]


def test_retrospective_update_is_the_previous_batch_with_attribution_times_coefficient():
    updates, record = RecordUpdates(), toy.Record()
    toy.fit(toy.module(), [updates, record, toy.pipo(window=2)], 5)
    for iteration, prefix, batch, _ in updates.calls:
        if prefix != "pipo":
            continue
        previous = record.batches[iteration - 1]
        mu = [s.mean_reward for s in record.stats]
        past = mu[iteration - 2 : iteration]
        xi = (mu[iteration] - statistics.mean(past)) / statistics.stdev(past)
        coefficient = xi if xi >= 0 else 0.1 * xi
        torch.testing.assert_close(batch.advantages, previous.attribution * coefficient, rtol=1e-6, atol=0)
        assert torch.equal(batch.old_logprobs, previous.old_logprobs)
        assert torch.equal(batch.response_ids, previous.response_ids)
        assert record.metrics[iteration]["pipo/progress"] == pytest.approx(xi, rel=1e-5)
        assert record.metrics[iteration]["pipo/coefficient"] == pytest.approx(coefficient, rel=1e-5)
    assert sum(prefix == "pipo" for _, prefix, *_ in updates.calls) >= 2


def test_old_logprobs_are_those_of_the_policy_that_sampled():
    """After the retrospective update the base update's ratio is not 1: theta' is not theta."""
    record = toy.Record()
    toy.fit(toy.module(learning_rate=0.05), [record, toy.pipo(window=2)], 4)
    # kl_old measures the distance of the policy in the base update from the one that sampled.
    assert record.metrics[0]["policy/kl_old"] == pytest.approx(0, abs=1e-7)
    moved = [m for m in record.metrics if m["pipo/applied"] == 1]
    assert moved
    assert all(m["policy/kl_old"] > 1e-6 for m in moved)


def test_without_feedback_the_run_is_the_baseline_bit_for_bit():
    """Lambda = 0 and a window that never fills both leave every weight and optimiser state alone."""
    baseline, waiting = toy.Record(), toy.Record()
    first = toy.fit(toy.module(), [baseline], 6)
    second = toy.fit(toy.module(), [waiting, toy.pipo(window=50)], 6)
    assert all(same(a, b) for a, b in zip(baseline.weights, waiting.weights, strict=True))
    states = [t.optimizers[0].state_dict()["state"] for t in (first, second)]
    assert all(
        torch.equal(states[0][p][name], states[1][p][name]) for p in states[0] for name in states[0][p]
    )


def test_a_drop_with_lambda_zero_changes_nothing_in_that_iteration():
    record, updates = toy.Record(), RecordUpdates()
    toy.fit(toy.module(), [updates, record, toy.pipo(window=2, negative_scale=0.0)], 10)
    retrospective = {iteration for iteration, prefix, *_ in updates.calls if prefix == "pipo"}
    drops = {i for i, m in enumerate(record.metrics) if m.get("pipo/progress", 0) < 0 and i >= 2}
    assert drops, "the toy never got worse: choose another seed"
    assert not drops & retrospective
    assert all(record.metrics[i]["pipo/applied"] == 0 for i in drops)


def test_a_flat_history_applies_nothing():
    class Flat(toy.ToyTask):
        def grade(self, examples, responses):
            return [toy.Reward(score=0.5)] * len(responses)

    model, updates = toy.module(), RecordUpdates()
    model.collector.task = Flat()
    record = toy.Record()
    toy.fit(model, [updates, record, toy.pipo(window=2)], 5)
    assert {prefix for _, prefix, *_ in updates.calls} == {"policy"}
    assert all(m["pipo/applied"] == 0 for m in record.metrics)


def test_learning_rate_of_the_retrospective_update_and_its_restoration():
    seen = []

    class Rates(RolloutCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            optimizer = trainer.optimizers[0]
            original = optimizer.step

            def step(*args, **kwargs):
                seen.append(optimizer.param_groups[0]["lr"])
                return original(*args, **kwargs)

            optimizer.step = step

    toy.fit(toy.module(learning_rate=0.01), [Rates(), toy.pipo(window=2, lr_scale=0.5)], 3)
    # Two plain iterations, then a retrospective step at half the rate, then the base step at the full one.
    assert seen == pytest.approx([0.01, 0.01, 0.005, 0.01])


def test_the_schedule_counts_iterations_not_optimiser_steps():
    record = toy.Record()
    toy.fit(
        toy.module(mini_batch=8, learning_rate=0.04, warmup_iterations=4), [record, toy.pipo(window=2)], 5
    )
    # Linear over 4 iterations, whatever number of optimiser steps (2 or 4 here) each made.
    assert [m["policy/lr"] for m in record.metrics] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04])


def test_training_raises_the_reward():
    record = toy.Record()
    toy.fit(toy.module(learning_rate=0.02), [record, toy.pipo(window=4)], 30)
    rewards = [s.mean_reward for s in record.stats]
    assert statistics.mean(rewards[-5:]) > statistics.mean(rewards[:5]) + 0.2


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resume_equals_the_uninterrupted_run_bit_for_bit(tmp_path, stop):
    whole, first, second = toy.Record(), toy.Record(), toy.Record()
    toy.fit(toy.module(), [whole, toy.pipo(window=2)], 8)

    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx + 1 == stop

    saving = IterationCheckpoint(folder=str(tmp_path), every=100, keep=1, best=False)
    toy.fit(toy.module(), [first, toy.pipo(window=2), Stop(), saving], 8)
    (checkpoint,) = finished_checkpoints(tmp_path)
    assert iterations_of(checkpoint) == stop
    resumed = toy.pipo(window=2)
    toy.fit(toy.module(), [second, resumed], 8, checkpoint)
    assert [s.iteration for s in second.stats] == list(range(stop, 8))
    assert [s.mean_reward for s in second.stats] == [s.mean_reward for s in whole.stats[stop:]]
    assert same(second.weights[-1], whole.weights[-1])
    assert list(resumed.history) == [s.mean_reward for s in whole.stats[-2:]]


def test_checkpoints_hold_no_code(tmp_path):
    saving = IterationCheckpoint(folder=str(tmp_path), every=2, keep=2, best=False)
    toy.fit(toy.module(), [toy.pipo(window=2), saving], 7)
    kept = finished_checkpoints(tmp_path)
    assert [iterations_of(path) for path in kept] == [6, 7]
    state = torch.load(kept[-1] / STATE, weights_only=True)
    assert len(state["pipo"]["history"]) == 2
    assert len(state["pipo"]["previous"]) == 1


def test_resuming_with_another_number_of_processes_is_refused(tmp_path):
    saving = IterationCheckpoint(folder=str(tmp_path), every=2, keep=2, best=False)
    toy.fit(toy.module(), [toy.pipo(window=2), saving], 3)
    path = finished_checkpoints(tmp_path)[-1]
    state = torch.load(path / STATE, weights_only=True)
    state["pipo"]["previous"].append(None)
    torch.save(state, path / STATE)
    with pytest.raises(ValueError, match="2 processes and cannot be resumed with 1"):
        toy.fit(toy.module(), [toy.pipo(window=2)], 5, path)


def test_a_failure_inside_the_retrospective_update_is_not_swallowed():
    model = toy.module()
    original = model.policy_update

    def broken(batch, *, prefix, **kwargs):
        if prefix == "pipo":
            raise RuntimeError("broken on purpose")
        return original(batch, prefix=prefix, **kwargs)

    model.policy_update = broken
    with pytest.raises(RuntimeError, match="broken on purpose"):
        toy.fit(model, [toy.pipo(window=2)], 5)
