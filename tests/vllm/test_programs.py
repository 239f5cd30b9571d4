"""``train.py`` and ``eval.py`` with the real engine, as a user runs them, on one process and on two."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipo.runs.checkpoints import verify
from tests.conftest import ROOT

SMALL = ["pipo.window=2", "evaluation.problems=16", "curve.every=100", "checkpoint.every=1"]
ENGINE = ["rollout=vllm", "rollout.engine.config.cpu_kv_cache_gib=0.125"]
TWO = ["trainer.strategy=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
BREAKING = ["--config-dir", str(ROOT / "tests/vllm/conf"), "rollout=breaking"]


def start(program: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """In a process group of its own, so that what it leaves running can be counted."""
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / program), *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(program: str, *arguments: str, cwd: Path) -> tuple[int, str]:
    process = start(program, *arguments, cwd=cwd)
    _, err = process.communicate(timeout=280)
    return process.returncode, err


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, float]]:
    def kept(name: str) -> bool:
        return not name.startswith("time/") and "per_second" not in name

    return [{k: v for k, v in row.items() if kept(k)} for row in rows(folder)]


def nothing_left(group: int) -> bool:
    """Whether every process of a group is gone, within ten seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    # With seed 1 the first two mean rewards happen to be equal, and there is no feedback.
    correction = ["rollout.importance_correction=token", "improvement=device", "seed=2"]
    code, err = run(
        "train.py", *ENGINE, *SMALL, *correction, "iterations=3", f"output_dir={folder}", cwd=folder.parent
    )
    assert code == 0, err
    return folder


def test_three_iterations_follow_the_trainer(finished):
    """Were an update missed, the difference would be that of the update: 1e-3 to 1e-1 a token."""
    metrics = rows(finished)
    assert len(metrics) == 3
    for row in metrics:
        assert 0 < row["rollout/logprob_diff"] < 1e-5
        assert row["rollout/logprob_diff"] < row["rollout/logprob_diff_max"] < 1e-3
        assert row["rollout/importance_weight"] == pytest.approx(1, abs=1e-5)
        assert row["rollout/importance_capped"] == 0
        assert row["policy/grad_norm"] > 0
        assert row["time/sync"] > 0
    # Both sides of the measurement are the trainer's: at the default rate a response moves by some 0.05 nats.
    for row in metrics[1:]:
        assert 0.005 < row["pipo/spread"] < 0.5
        assert row["pipo/improvement_se"] > 0
    assert metrics[2]["pipo/progress"] is not None


def test_eval_measures_what_the_local_engine_measures(finished, tmp_path):
    """Greedy, there is nothing to draw: every response is the same."""
    samples = {}
    for name in ("local", "vllm"):
        options = [f"rollout={name}", "rollout.temperature=0", "evaluation.samples=2", "evaluation.ks=[1]"]
        arguments = [
            f"model={finished}",
            "evaluation.problems=100",
            *options,
            f"output_dir={tmp_path / name}",
        ]
        code, err = run("eval.py", *arguments, cwd=tmp_path)
        assert code == 0, err
        lines = (tmp_path / name / "samples.jsonl").read_text().splitlines()
        samples[name] = [json.loads(line)["samples"] for line in lines]
    assert len(samples["vllm"]) == 100
    assert samples["vllm"] == samples["local"]


def test_a_resumed_run_goes_on_exactly(finished, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    shutil.rmtree(copy / "checkpoints/iteration_000003.ckpt")
    (copy / "summary.json").unlink()
    code, err = run("train.py", f"resume={copy}", cwd=tmp_path)
    assert code == 0, err
    assert timeless(copy) == timeless(finished)


def test_an_engine_that_breaks_ends_the_run_with_one_line_and_a_checkpoint(tmp_path):
    arguments = [*BREAKING, *SMALL, "iterations=5", "output_dir=run"]
    process = start("train.py", *arguments, cwd=tmp_path)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 1
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if "vLLM engine failed" in line]
    assert "sampling: RuntimeError: the device is gone" in line
    assert line.endswith("saved up to iteration 2, go on with python train.py resume=run")
    assert nothing_left(process.pid)
    assert "Traceback" in (tmp_path / "run/train.log").read_text()  # for whoever has to find out why
    verify(tmp_path / "run/checkpoints/iteration_000002.ckpt")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("updates: 2", "updates: 100"))
    code, err = run("train.py", "resume=run", cwd=tmp_path)
    assert code == 0, err
    assert [row["iteration"] for row in rows(tmp_path / "run")] == [0, 1, 2, 3, 4]


def test_two_processes_share_one_copy_of_the_weights(tmp_path):
    """An engine on each of two ranks, then one in halves on both, which draws the very same tokens."""
    folders = [tmp_path / "whole", tmp_path / "halves"]
    for folder, size in zip(folders, (1, 2), strict=True):
        sharing = f"rollout.engine.config.tensor_parallel_size={size}"
        arguments = [*ENGINE, *TWO, *SMALL, sharing, "iterations=3", f"output_dir={folder}"]
        code, err = run("train.py", *arguments, cwd=tmp_path)
        assert code == 0, err
    for one, other in zip(*map(rows, folders), strict=True):
        assert one["train/reward"] == other["train/reward"]
        assert one["train/response_length"] == other["train/response_length"]
        assert max(row["rollout/logprob_diff_max"] for row in (one, other)) < 1e-3


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_of_two_engines_that_breaks_ends_both_processes(tmp_path, rank):
    arguments = [*BREAKING, f"rollout.engine.rank={rank}", *TWO, *SMALL, "iterations=50", "output_dir=run"]
    process = start("train.py", *arguments, cwd=tmp_path)
    try:
        _, err = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "sampling: RuntimeError: the device is gone" in err
        assert nothing_left(process.pid)
    finally:
        if not nothing_left(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    verify(tmp_path / "run/checkpoints/iteration_000002.ckpt")


@pytest.mark.slow
def test_ctrl_c_stops_in_good_order(tmp_path):
    folder = tmp_path / "run"
    process = start("train.py", *ENGINE, *SMALL, "iterations=5000", f"output_dir={folder}", cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not (folder / "metrics.jsonl").exists() or len(rows(folder)) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in err
    assert f"resume={folder}" in err
    assert nothing_left(process.pid)
