"""What users of Lightning and Hydra bring along: callbacks, loggers, the debug group, words of their own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from pipo.config.command_line import expand_open
from pipo.runs.run_log import read_metrics
from pipo.training import train
from tests.integration.test_limits import ended, resume, start

OWN = "callbacks.own."


class Chatty(pl.Callback):
    """Logs in the three ways that there are, and keeps what it could watch."""

    seen: list[float]

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        pl_module.log("own/logged", batch_idx + 0.25)
        pl_module.row["own/row"] = batch_idx + 0.5
        for logger in trainer.loggers:
            logger.log_metrics({"own/direct": batch_idx + 0.75}, step=batch_idx)
        self.seen.append(trainer.callback_metrics["train/reward"].item())


def options(*given: str) -> list[str]:
    """As the command line takes them."""
    words = [*given]
    expand_open(words)
    return words


@pytest.fixture(scope="module")
def chatty(compose_config, tmp_path_factory) -> Path:
    """Two iterations and, resumed, a third; with callbacks and loggers of Lightning's."""
    folder = tmp_path_factory.mktemp("chatty") / "run"
    words = options(
        "callbacks=[learning_rate,early_stopping,model_checkpoint]",
        f"{OWN}_target_={__name__}.Chatty",
        "callbacks.early_stopping.patience=100",
        "logger=[csv,tensorboard]",
        "samples.every=1",
        "curve.every=1",
        "trainer.profiler=simple",
    )
    train(start(compose_config, folder, "iterations=2", *words), [])
    resume(compose_config, folder, "iterations=3")
    return folder


def test_whoever_logs_there_is_one_row_per_iteration(chatty):
    assert ended(chatty) == (3, None)
    rows = read_metrics(chatty / "metrics.jsonl")
    for row in rows:
        step = row["iteration"]
        own = [row[f"own/{name}"] for name in ("logged", "row", "direct")]
        assert own == [step + 0.25, step + 0.5, step + 0.75]
        assert row["lr-AdamW"] == row["policy/lr"]
        assert "epoch" not in row
    with (chatty / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in table] == [0, 1, 2]
    assert [float(row["own/row"]) for row in table] == [0.5, 1.5, 2.5]


def test_tensorboard_has_every_metric_the_samples_and_the_curves(chatty):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(chatty / "tensorboard"))
    events.Reload()
    rows = read_metrics(chatty / "metrics.jsonl")
    for name in ("train/reward", "policy/grad_norm", "own/row"):
        points = [(each.step, each.value) for each in events.Scalars(name)]
        assert points == [(row["iteration"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    assert "curves" in events.Tags()["images"]
    tables = [each.tensor_proto.string_val[0].decode() for each in events.Tensors("samples/text_summary")]
    assert len(tables) == 3
    assert tables[0].startswith("| iteration | group | prompt | response |")
    # Two prompts of four responses each, below the titles and their rule.
    assert [table.count("\n") for table in tables] == [9, 9, 9]


def test_lightnings_own_checkpoint_is_there_and_the_profile_too(chatty):
    (best,) = (chatty / "lightning").glob("*.ckpt")
    assert best.stat().st_size > 0
    assert (chatty / "fit-profile.txt").read_text().count("Profiler Report") == 2


def test_the_profile_is_said_and_a_sound_run_passes_anomaly_detection(compose_config, tmp_path, capsys):
    words = options("debug=profiler", "trainer.detect_anomaly=true", "iterations=1")
    train(start(compose_config, tmp_path / "run", *words), [])
    said = capsys.readouterr().out
    assert "run_training_batch                                     1 times" in said
    assert "fit-profile.txt where the time went" in said


def test_overfitting_trains_on_the_same_prompts_to_the_end_of_the_budget(compose_config, tmp_path):
    folder = tmp_path / "run"
    words = ["debug=overfit", "logger=null", "samples.every=1", "samples.prompts=8"]
    train(start(compose_config, folder, *words[:1], "~logger", *words[2:]), [])
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["iterations"], summary.get("ended_by")) == (3, None)
    prompts: dict[int, list[str]] = {}
    for line in (folder / "samples.jsonl").read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        prompts.setdefault(row["iteration"], []).append(row["uid"])
    assert prompts[0] == prompts[1] == prompts[2]
    assert len(set(prompts[0])) == 2  # 8 responses in groups of 4
    assert not (folder / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("trainer.max_time=00:01:00:00", "++trainer.max_time=00:01:00:00"),
        ("+trainer.max_time=00:01:00:00", "++trainer.max_time=00:01:00:00"),
        ("callbacks.x._target_=a.B", "++callbacks.x._target_=a.B"),
        ("++logger.wandb.project=x", "++logger.wandb.project=x"),
        ("logger=csv", "logger=csv"),
        ("~callbacks", "~callbacks"),
        ("recipe.responses=8", "recipe.responses=8"),
    ],
)
def test_open_nodes_are_typed_with_and_without_a_plus(typed, means):
    assert options(typed) == [means]


@pytest.mark.slow
def test_mlflow_has_every_metric_the_samples_and_the_pages(compose_config, tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "run"
    train(start(compose_config, folder, "logger=[csv,mlflow]", "iterations=2", "samples.every=1"), [])
    client = tracking.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("pipo").experiment_id])
    assert run.info.status == "FINISHED"
    points = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "train/reward")]
    rows = read_metrics(folder / "metrics.jsonl")
    assert points == [(row["iteration"], row["train/reward"]) for row in rows]
    names = [each.path for each in client.list_artifacts(run.info.run_id)]
    assert names == ["README.md", "curves.png", "report.html", "samples"]
    tables = [each.path for each in client.list_artifacts(run.info.run_id, "samples")]
    assert tables == ["samples/000000.md", "samples/000001.md"]
