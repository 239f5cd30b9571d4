"""What must not ruin a run: numbers that are not finite, a full disk, a grader that cannot start."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.callbacks.guard import SkippedStepLog
from pipo.config.cli import exit_code
from pipo.errors import RunFailed
from pipo.graders import worker_pool
from pipo.modules.hooks import RolloutCallback
from pipo.records.batches import PolicyBatch
from pipo.runs.checkpoints import STATE, finished_checkpoints, iterations_of, verify
from pipo.runs.metric_files import MetricsFileLogger
from pipo.runs.run_log import DIVERGED_FILE, read_metrics
from pipo.training import train
from tests import toy

SMALL = [
    "recipe.responses=16",
    "recipe.mini_batch=16",
    "pipo.window=2",
    "evaluation.problems=2",
    "evaluation.samples=8",
    "curve.every=100",
    "checkpoint.every=1",
]


class Poison(RolloutCallback):
    """Makes the advantages of some iterations something that is no number."""

    def __init__(self, *iterations: int, rows: slice = slice(0, 1), value: float = float("nan")) -> None:
        self.iterations, self.rows, self.value = iterations, rows, value

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        if stats.iteration in self.iterations:
            batch.advantages[self.rows] = self.value


def adam(trainer) -> dict[str, torch.Tensor]:
    state = trainer.optimizers[0].state_dict()["state"]
    return {f"{p}.{name}": value.clone() for p, values in state.items() for name, value in values.items()}


class AdamStates(RolloutCallback):
    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.states.append(adam(trainer))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_and_leaves_no_trace_in_adam(tmp_path, value):
    record, adams = toy.Record(), AdamStates()
    # Two mini-batches of 8 responses: the first is bad, the second is not.
    toy.fit(
        toy.module(mini_batch=8),
        [record, adams, Poison(1, 2, value=value), SkippedStepLog(folder=str(tmp_path))],
        4,
    )
    assert [m["policy/skipped_steps"] for m in record.metrics] == [0, 1, 1, 0]
    steps = [next(v for name, v in s.items() if name.endswith("step")).item() for s in adams.states]
    assert steps == [2, 3, 4, 6]
    assert all(v.isfinite().all() for v in record.weights[-1].values())
    assert all(torch.tensor(list(m.values())).isfinite().all() for m in record.metrics)


def test_an_iteration_without_any_step_changes_neither_weights_nor_adam(tmp_path):
    record, adams = toy.Record(), AdamStates()
    poison = Poison(1, rows=slice(None))
    toy.fit(toy.module(mini_batch=8), [record, adams, poison, SkippedStepLog(folder=str(tmp_path))], 3)
    assert [m["policy/skipped_steps"] for m in record.metrics] == [0, 2, 0]
    assert same(record.weights[0], record.weights[1])
    assert same(adams.states[0], adams.states[1])
    assert "policy/loss" not in record.metrics[1]


def test_the_first_offending_batch_is_kept_as_plain_data(tmp_path):
    record = toy.Record()
    toy.fit(toy.module(mini_batch=8), [record, Poison(1, 3), SkippedStepLog(folder=str(tmp_path))], 5)
    (path,) = tmp_path.iterdir()
    assert path.name == "bad_batch_000001.pt"
    kept = torch.load(path, weights_only=True)
    assert (kept["iteration"], kept["update"]) == (1, "policy")
    assert kept["loss"] != kept["loss"]
    (part,) = kept["ranks"]
    batch = PolicyBatch.from_plain(part["batch"])
    assert torch.equal(batch.response_ids, record.batches[1].response_ids)
    assert part["rows"].tolist() == list(range(8))
    assert batch.advantages[part["rows"]].isnan().any()


def test_after_some_in_a_row_the_run_ends_with_a_message(tmp_path, capsys):
    model, record = toy.module(max_skipped_steps=3), toy.Record()
    # A step that is made starts the count anew: 1, 2, then 4, 5, 6.
    callbacks = [record, Poison(1, 2, 4, 5, 6), SkippedStepLog(folder=str(tmp_path))]
    code, _ = exit_code(lambda: toy.fit(model, callbacks, 10))
    assert code == 1
    assert capsys.readouterr().err.startswith(
        "error: 3 optimiser steps in a row met numbers that are not finite, the last in the policy update of "
        "iteration 6 (loss nan, gradient norm nan). None of them was made, so the weights are sound;"
    )
    assert same(model.state_dict(), record.weights[3])


def test_the_count_goes_on_after_a_resume(tmp_path):
    saving = IterationCheckpoint(folder=str(tmp_path), every=1, keep=1, best=False)
    guard = SkippedStepLog(folder=str(tmp_path))
    toy.fit(toy.module(max_skipped_steps=3), [Poison(1, 2), guard, saving], 3)
    with pytest.raises(RunFailed, match=r"3 optimiser steps in a row .* iteration 3"):
        toy.fit(
            toy.module(max_skipped_steps=3), [Poison(3), guard, saving], 5, finished_checkpoints(tmp_path)[-1]
        )


@pytest.mark.slow
def test_two_ranks_skip_together_when_one_of_them_has_the_bad_batch(tmp_path):
    program = Path(__file__).with_name("poisoned_ranks.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert same(first["weights"], second["weights"])
    assert first["skipped"] == second["skipped"] == [0, 1, 0]
    kept = torch.load(tmp_path / "bad_batch_000001.pt", weights_only=True)
    bad = [part["batch"]["advantages"].isnan().any().item() for part in kept["ranks"]]
    assert bad == [False, True]


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before_it(tmp_path, capsys):
    """The limit on the size of a file makes the write itself fail, in the middle of the state."""

    class Full(RolloutCallback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if batch_idx == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "checkpoints"
    saving = IterationCheckpoint(folder=str(folder), every=2, keep=2, best=False)
    try:
        code, _ = exit_code(lambda: toy.fit(toy.module(), [toy.pipo(), Full(), saving], 8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "iteration_000004.ckpt: the checkpoint cannot be written (File too large)" in message
    assert "the newest before it is" in message
    assert f"go on with python train.py resume={tmp_path}" in message
    (kept,) = folder.iterdir()
    assert iterations_of(kept) == 2
    verify(kept)


def test_a_disk_that_is_full_at_a_row_of_metrics_is_one_error_and_the_run_goes_on_later(
    compose_config, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    log_row = MetricsFileLogger.log_row

    def full(self, row, iteration):
        if iteration == 2:
            with self.jsonl.open("a") as file:
                file.write('{"iteration": 2, "train/rew')  # what fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.jsonl))
        log_row(self, row, iteration)

    cfg = compose_config(*SMALL, "iterations=4", f"output_dir={folder}")
    with monkeypatch.context() as patch:
        patch.setattr(MetricsFileLogger, "log_row", full)
        code, _ = exit_code(lambda: train(cfg, []))
    assert code == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == (
        f"error: {folder}/metrics.jsonl: cannot be written (No space left on device). What was written "
        f"before is whole; make room, then go on with python train.py resume={folder}"
    )
    assert [row["iteration"] for row in read_metrics(folder / "metrics.jsonl")] == [0, 1]
    train(compose_config(f"resume={folder}"), [f"resume={folder}"])
    assert [row["iteration"] for row in read_metrics(folder / "metrics.jsonl")] == [0, 1, 2, 3]


def test_a_run_that_diverged_keeps_why_until_it_goes_on(compose_config, tmp_path, capsys):
    folder = tmp_path / "run"
    far = ["algo.optimizer.max_grad_norm=1e9", "recipe.learning_rate=1e6"]
    cfg = compose_config(*SMALL, "iterations=6", *far, f"output_dir={folder}")
    code, _ = exit_code(lambda: train(cfg, []))
    assert code == 1
    why = (folder / DIVERGED_FILE).read_text()
    assert why.startswith("3 optimiser steps in a row met numbers that are not finite")
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {why.strip()}"
    # Of the three iterations before it a result can still be made, and then the run has not diverged.
    train(compose_config(f"resume={folder}", "iterations=3"), [f"resume={folder}", "iterations=3"])
    assert not (folder / DIVERGED_FILE).exists()


def test_a_grader_that_cannot_start_is_one_error_that_says_how_to_go_on(
    compose_config, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    calls = []

    def dead(self, *arguments):
        calls.append(arguments)
        raise worker_pool.WorkerStartError("cannot start a grading worker: no module named math_verify")

    cfg = compose_config(*SMALL, "task=boxed_sums", "iterations=4", f"output_dir={folder}")
    monkeypatch.setattr(worker_pool.WorkerPool, "run", dead)
    code, _ = exit_code(lambda: train(cfg, []))
    assert (code, len(calls)) == (1, 1)
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == (
        "error: cannot start a grading worker: no module named math_verify; "
        "no checkpoint had been written yet, so start the run again"
    )


def test_checkpoints_hold_what_the_run_needs_and_nothing_twice(tmp_path):
    saving = IterationCheckpoint(folder=str(tmp_path), every=3, keep=1, best=False)
    record = toy.Record()
    toy.fit(toy.module(), [record, toy.pipo(window=2), saving], 3)
    state = torch.load(finished_checkpoints(tmp_path)[-1] / STATE, weights_only=True)
    (previous,) = state["pipo"]["previous"]
    assert "advantages" not in previous  # they are the attribution
    assert torch.equal(previous["attribution"], record.batches[-1].attribution)
    assert len(state["pipo"]["history"]) == 2
    assert len(state["optimizer_states"]) == len(state["lr_schedulers"]) == 1


@pytest.mark.parametrize(("kl_coef", "expected"), [(0.0, 18), (0.05, 22)])
def test_the_previous_batch_is_bounded_and_on_the_cpu(kl_coef, expected):
    """Per position: token 8, two masks 2, old log-probability 4, attribution 4, reference 4 bytes."""
    callback = toy.pipo(window=2, kl_coef=kl_coef)
    toy.fit(toy.module(toy.grpo(kl_coef=0.05)), [callback], 4)
    previous = callback.previous
    assert previous is not None
    tensors = [v for v in vars(previous).values() if isinstance(v, torch.Tensor)]
    assert all(tensor.device.type == "cpu" for tensor in tensors)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert sum(storages.values()) == expected * previous.response_ids.numel()
    assert previous.response_ids.shape[1] <= toy.sampling().max_response_tokens
