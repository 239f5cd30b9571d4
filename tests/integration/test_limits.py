"""Lightning's limits: what ends a run before its budget is said, and the run goes on from there."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
from omegaconf import DictConfig

from pipo.analysis.report.content import make_report
from pipo.analysis.report.run_files import read_folder
from pipo.config.cli import exit_code
from pipo.runs.checkpoints import finished_checkpoints, iterations_of, verify
from pipo.runs.run_log import read_metrics
from pipo.training import train

SMALL = ["recipe.responses=8", "recipe.mini_batch=4", "algo.group_size=4", "pipo.window=2"]
SMALL += ["evaluation.problems=2", "evaluation.samples=1", "evaluation.ks=[1]", "curve.samples=1"]
TRAINER, OWN = "+trainer.", "+callbacks.own."
TIMER = [f"{OWN}_target_=lightning.pytorch.callbacks.Timer", f"{OWN}duration=00:00:00:00"]
EARLY = [
    f"{OWN}_target_=lightning.pytorch.callbacks.EarlyStopping",
    f"{OWN}monitor=eval/pass@1",
    "curve.every=1",
]


class StopAfter(pl.Callback):
    """Stops as callbacks of Lightning do.

    Args:
        iterations: that may be made.
    """

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.iterations == 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        trainer.should_stop = trainer.should_stop or batch_idx + 1 == self.iterations


def ended(folder: Path) -> tuple[int, str | None]:
    """What the summary says, after everything else was seen to say the same."""
    summary = json.loads((folder / "summary.json").read_text())
    done = summary["iterations"]
    assert [row["iteration"] for row in read_metrics(folder / "metrics.jsonl")] == [*range(done)]
    newest = finished_checkpoints(folder / "checkpoints")[-1]
    assert verify(newest).iterations == iterations_of(newest) == done
    assert json.loads((folder / "held_out/after.json").read_text())["iterations"] == done
    assert (folder / "model/config.json").is_file()
    return done, summary.get("ended_by")


def start(compose_config, folder: Path, *overrides: str) -> DictConfig:
    return compose_config(*SMALL, "iterations=3", f"output_dir={folder}", *overrides)


def resume(compose_config, folder: Path, *overrides: str) -> None:
    given = [f"resume={folder}", *overrides]
    train(compose_config(*given), given)


@pytest.mark.parametrize(
    ("limit", "done"),
    [
        ([f"{TRAINER}limit_train_batches=2"], 2),
        # Of 3 iterations, rounded down.
        pytest.param([f"{TRAINER}limit_train_batches=0.7"], 2, marks=pytest.mark.slow),
        # Two mini-batches of 4 make two steps per iteration.
        pytest.param([f"{TRAINER}max_steps=3"], 2, marks=pytest.mark.slow),
        ([f"{OWN}_target_={__name__}.StopAfter", f"{OWN}iterations=2"], 2),
        # Two samples of two problems rarely rise, so after the first point there is no better one.
        # It stops as the callback above does.
        pytest.param([*EARLY, f"{OWN}patience=1", f"{OWN}min_delta=2.0"], 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_a_limit_ends_says_so_and_goes_on(compose_config, tmp_path, capsys, limit, done):
    train(start(compose_config, tmp_path, *limit), [])
    key = limit[0].lstrip("+") if limit[0].startswith(TRAINER) else "callbacks.own"
    assert ended(tmp_path) == (done, key)
    assert f"ended by {key} after {done} of 3 iterations" in capsys.readouterr().out
    content = make_report(read_folder(tmp_path))
    assert content.ended == f"{done} of 3 iterations are made: {key} ended the run."
    resume(compose_config, tmp_path, "iterations=4")
    made, cause = ended(tmp_path)
    # A callback of the user's own is asked again; a limit has had its effect.
    assert (made, cause) == ((4, None) if key.startswith("trainer") else (made, cause))
    assert made > done


@pytest.mark.slow
def test_a_run_goes_on_from_a_limit_as_if_there_had_been_none(compose_config, tmp_path):
    def timeless(folder: Path) -> list[dict[str, float]]:
        read = read_metrics(folder / "metrics.jsonl")
        return [{k: v for k, v in row.items() if "time/" not in k and "per_second" not in k} for row in read]

    train(start(compose_config, tmp_path / "whole"), [])
    train(start(compose_config, tmp_path / "cut", f"{TRAINER}limit_train_batches=2"), [])
    resume(compose_config, tmp_path / "cut", f"{TRAINER}max_time=01:00:00:00")
    assert ended(tmp_path / "cut") == (3, None)
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "whole")


def test_a_time_limit_ends_the_iteration_that_it_falls_into(compose_config, tmp_path):
    """The evaluation before training counts, so a second is over within the first iterations."""
    cfg = start(compose_config, tmp_path, "iterations=100000", f"{TRAINER}max_time=00:00:00:01")
    train(cfg, [])
    done, cause = ended(tmp_path)
    assert done >= 1
    assert cause == "trainer.max_time=00:00:00:01"
    resume(compose_config, tmp_path, f"iterations={done + 1}")
    assert ended(tmp_path) == (done + 1, None)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            ["max_time=00:00:00:00"],
            "trainer.max_time=00:00:00:00: not one iteration was left to make",
        ),
        (["max_time=soon"], "`Timer(duration='soon')` is not a valid duration"),
        (["max_time=20"], "trainer.max_time: expected"),
        (["max_steps=0"], "trainer.max_steps=0: not one iteration would be made"),
        (["max_steps=many"], "trainer.max_steps: expected int, got 'many'"),
        (["limit_train_batches=0"], "trainer.limit_train_batches=0: not one iteration"),
        (["limit_train_batches=0.1"], "trainer.limit_train_batches=0.1: not one iteration"),
        (["limit_train_batches=1.5"], "trainer.limit_train_batches=1.5: a whole number, or a share"),
        (["overfit_batches=0.5"], "trainer.overfit_batches=0.5: a whole number, of iterations whose prompts"),
        (["overfit_batches=-1"], "trainer.overfit_batches=-1: not one iteration"),
        (["max_epochs=3"], "trainer.max_epochs: one epoch is the whole run, and iterations"),
        (["min_steps=3"], "trainer.min_steps: a run that is told to stop has to stop; iterations"),
        (["limit_val_batches=3"], "trainer.limit_val_batches: there is no validation loop; eval"),
        (["accumulate_grad_batches=2"], "trainer.accumulate_grad_batches: recipe.mini_batch"),
        (["gradient_clip_val=1.0"], "trainer.gradient_clip_val: set algo.optimizer.max_grad_norm"),
        (["max_step=3"], "trainer.max_step: unknown key; did you mean trainer.max_steps?"),
        (["profiler=fast"], "trainer.profiler=fast: choose simple, advanced, pytorch"),
    ],
)
def test_a_limit_that_makes_no_sense_is_one_line(compose_config, tmp_path, capsys, limit, message):
    folder = tmp_path / "run"
    cfg = start(compose_config, folder, *(f"{TRAINER}{each}" for each in limit))
    code, _ = exit_code(lambda: train(cfg, []))
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert message in said
    assert not folder.exists() or not any(folder.iterdir())


@pytest.mark.parametrize("own", [TIMER, [f"{OWN}_target_={__name__}.StopAfter", f"{OWN}iterations=0"]])
def test_a_callback_that_stops_before_the_first_iteration_is_one_line(compose_config, tmp_path, capsys, own):
    code, _ = exit_code(lambda: train(start(compose_config, tmp_path, *own), []))
    assert code == 2
    assert capsys.readouterr().err.startswith("error: callbacks.own: not one iteration was left to make")
    assert not any(tmp_path.iterdir())


def test_a_watched_metric_that_is_not_there_is_one_line(compose_config, tmp_path, capsys):
    cfg = start(compose_config, tmp_path, *EARLY, "callbacks.own.monitor=val_loss")
    code, _ = exit_code(lambda: train(cfg, []))
    assert code == 1
    assert (
        "error: callbacks.own.monitor=val_loss: there is no such metric; there are "
        in capsys.readouterr().err
    )


def test_a_fast_dev_run_does_everything_in_little_and_says_how_little(compose_config, tmp_path):
    small = ["evaluation.problems=null", "evaluation.prompts_per_batch=3"]
    train(start(compose_config, tmp_path, f"{TRAINER}fast_dev_run=true", *small), [])
    assert ended(tmp_path) == (1, None)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["before"]["problems"] == summary["after"]["problems"] == 3
    resume(compose_config, tmp_path, "iterations=2")
    assert ended(tmp_path) == (2, None)
