"""The W&B run of a run folder, read back: the same after a resume, in its group, drawn over the iteration."""

from __future__ import annotations

import json
import logging
import re
import socket

import pytest
import wandb
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipo.config.sweep import JOB_TYPE, SWEEP_GROUP
from pipo.errors import ConfigError
from pipo.runs.wandb_logger import RUN_FILE, SUMMARIES, WandbRunLogger
from pipo.training import train
from tests import wandb_file
from tests.conftest import ROOT


@pytest.fixture
def fresh_session(monkeypatch):
    """W&B reads its environment once per session, and Lightning writes to it."""
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()
    yield
    wandb.teardown()


def logger(folder, *, offline=True, init_timeout=20.0, name="a", group=None) -> WandbRunLogger:
    return WandbRunLogger(
        save_dir=str(folder),
        project="pipo",
        name=name,
        group=group,
        job_type="train",
        table_characters=4,
        offline=offline,
        init_timeout=init_timeout,
        finish_timeout=20.0,
    )


def settled(folder) -> dict[str, str | None]:
    return json.loads((folder / RUN_FILE).read_text())


@pytest.mark.usefixtures("fresh_session")
def test_a_resumed_run_is_the_same_one_in_a_second_folder(tmp_path):
    first = logger(tmp_path, name="0-seed_1", group="sweep")
    for step in range(3):
        first.log_row({"reward": step / 10}, step)
    first.finalize("failed")
    second = logger(tmp_path)  # resumed by hand, outside of the sweep
    for step in range(2, 5):
        second.log_table("samples", columns=["text"], data=[["abcd"], ["abcdefg"]], step=step)
        second.log_row({"reward": step / 10}, step)
    second.finalize("success")
    before, after = wandb_file.run_files(tmp_path)
    for path in (before, after):
        run = wandb_file.run_record(path)
        place = {"name": run.display_name, "group": run.run_group, "job_type": run.job_type}
        assert {"id": run.run_id, **place} == settled(tmp_path)
        assert place == {"name": "0-seed_1", "group": "sweep", "job_type": "train"}
    steps = [
        [(row["_step"], row["iteration"], row["reward"]) for row in wandb_file.rows(path)]
        for path in (before, after)
    ]
    # Iteration 2 is in both with one value and one step, so uploading both gives it once.
    assert steps == [[(0, 0, 0.0), (1, 1, 0.1), (2, 2, 0.2)], [(2, 2, 0.2), (3, 3, 0.3), (4, 4, 0.4)]]
    assert all("samples/_type" in row or "samples" in row for row in wandb_file.rows(after))
    table = next(after.parent.glob("files/media/table/samples_*.table.json"))
    assert json.loads(table.read_text())["data"] == [["abcd"], ["abcd [+3 characters]"]]


@pytest.mark.usefixtures("fresh_session")
def test_sending_without_a_login_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # no saved login
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    said = r"^logger\.wandb\.offline=false: .*; log in with wandb login"
    with pytest.raises(ConfigError, match=said) as found:
        logger(tmp_path, offline=False).log_row({"reward": 0.0}, 0)
    assert "\n" not in str(found.value)


@pytest.mark.usefixtures("fresh_session")
def test_an_agent_of_a_sweep_names_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    run = logger(tmp_path)
    run.log_row({"reward": 0.5}, 0)
    run.finalize("success")
    (path,) = wandb_file.run_files(tmp_path)
    assert wandb_file.run_record(path).run_id == settled(tmp_path)["id"] == "chosen"


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_session")
def test_a_server_that_does_not_answer_does_not_keep_the_run_from_training(tmp_path, monkeypatch, caplog):
    with socket.socket() as deaf:  # takes connections and says nothing
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        unreachable = logger(tmp_path, offline=False, init_timeout=1.0)
        with caplog.at_level(logging.WARNING):
            unreachable.log_row({"reward": 0.5}, 0)
        unreachable.finalize("success")
    assert "W&B cannot be reached" in caplog.text
    assert "wandb sync" in caplog.text
    (path,) = wandb_file.run_files(tmp_path)
    assert wandb_file.run_record(path).run_id == settled(tmp_path)["id"]
    assert [row["reward"] for row in wandb_file.rows(path)] == [0.5]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run of a sweep with three iterations, resumed outside of it for a fourth; its folder."""
    folder = tmp_path_factory.mktemp("sweep") / "0-seed_1"
    overrides = ["logger=wandb", "iterations=3", "pipo.window=2", "recipe.responses=32", "curve.every=1"]
    overrides += ["recipe.mini_batch=32", "evaluation.problems=4", "samples.every=2", "checkpoint.every=1"]
    overrides += ["samples.prompts=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "online")
        patch.delenv("WANDB_API_KEY", raising=False)
        with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
            cfg = compose("train", [*overrides, f"output_dir='{folder}'"])
            again = compose("train", [f"resume='{folder}'"])
        patch.setenv(SWEEP_GROUP, "sweep")
        patch.setenv(JOB_TYPE, "arm")
        train(cfg, [])
        patch.delenv(SWEEP_GROUP)
        patch.delenv(JOB_TYPE)
        train(again, ["iterations=4"])
    return folder


def test_a_run_is_in_its_group_with_its_tags_also_after_a_resume(resumed):
    before, after = [wandb_file.run_record(path) for path in wandb_file.run_files(resumed)]
    for run in (before, after):
        assert (run.display_name, run.run_group, run.job_type) == ("0-seed_1", "sweep", "arm")
        assert [*run.tags] == ["grpo", "pipo-default", "arithmetic", "tiny"]
    assert before.run_id == after.run_id == settled(resumed)["id"]


def test_the_configuration_is_there(resumed):
    path = wandb_file.run_files(resumed)[0]
    config = {}
    for record in wandb_file.records(path):
        for update in record.config.update if record.HasField("config") else ():
            config["/".join(update.nested_key) or update.key] = json.loads(update.value_json)
    assert config["config"]["pipo"]["lambda"] == OmegaConf.load(ROOT / "conf/pipo/default.yaml")["lambda"]
    assert config["config"]["seed"] == 1


def test_rows_are_those_of_the_file_and_drawn_over_the_iteration(resumed):
    before, after = wandb_file.run_files(resumed)
    kept = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    extra = re.compile(r"_(step|runtime|timestamp)|samples.*")
    logged = [
        {name: value for name, value in row.items() if not extra.fullmatch(name)}
        for path in (before, after)
        for row in wandb_file.rows(path)
    ]
    assert logged == kept
    metrics = [each.metric for each in wandb_file.records(before) if each.HasField("metric")]
    (everything,) = [each for each in metrics if each.glob_name == "*"]
    assert everything.step_metric == "iteration"
    assert all(each.step_metric == "iteration" for each in metrics if each.name in SUMMARIES)
    assert {each.name for each in metrics} == {"", "iteration", *SUMMARIES}


def test_the_best_accuracy_is_in_the_summary_beside_the_newest(resumed):
    """W&B's own process works it out; the first start logged three points of the curve."""
    before = wandb_file.run_files(resumed)[0]
    curve = [row["eval/pass@1"] for row in wandb_file.rows(before)]
    updates = [each.summary.update for each in wandb_file.records(before) if each.HasField("summary")]
    summary = {name: value for items in updates for name, value in wandb_file.item_values(items).items()}
    assert len(curve) == 3
    assert summary["eval/pass@1"] == {"max": max(curve), "last": curve[-1]}


def test_the_table_has_the_samples_of_the_file(resumed):
    samples = [json.loads(line) for line in (resumed / "samples.jsonl").read_text().splitlines()]
    tables = sorted(resumed.glob("wandb/offline-run-*/files/media/table/samples_*.table.json"))
    assert len(tables) == 2  # of iterations 0 and 2
    for iteration, path in zip((0, 2), tables, strict=True):
        table = json.loads(path.read_text())
        assert {"iteration", "group", "prompt", "response", "reward", "advantage", "length"} <= {
            *table["columns"]
        }
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        expected = [each for each in samples if each["iteration"] == iteration]
        assert len(rows) == len(expected) == 8  # one prompt, eight responses
        assert len({row["group"] for row in rows}) == 1
        for row, sample in zip(rows, expected, strict=True):
            assert row["reward"] == sample["reward"]
            assert (row["length"], row["advantage"]) == (sample["tokens"], sample["advantage"])
            assert (row["prompt"], row["response"]) == (sample["prompt"], sample["response"])


def test_advantages_of_a_group_are_centred_and_follow_the_rewards(resumed):
    """GRPO: (r - mean) / (s + 1e-6) with the sample standard deviation s of the group."""
    samples = [json.loads(line) for line in (resumed / "samples.jsonl").read_text().splitlines()]
    for iteration in (0, 2):
        group = [each for each in samples if each["iteration"] == iteration]
        rewards = [each["reward"] for each in group]
        mean = sum(rewards) / 8
        deviation = (sum((r - mean) ** 2 for r in rewards) / 7) ** 0.5
        expected = [(r - mean) / (deviation + 1e-6) for r in rewards]
        assert [each["advantage"] for each in group] == pytest.approx(expected, abs=2e-6)
