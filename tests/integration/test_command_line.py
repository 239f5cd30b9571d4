"""``train.py`` and ``eval.py`` as a user runs them, each in a process of its own."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipo.runs.checkpoints import finished_checkpoints, verify
from pipo.runs.run_folder import held
from tests.conftest import ROOT
from tests.programs import Program, run, run_anew

SMALL = ["pipo.window=2", "evaluation.problems=8", "curve.every=2", "recipe.responses=32", "samples.every=1"]
SMALL += ["checkpoint.every=2"]


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """One small run that the tests below look at."""
    where = tmp_path_factory.mktemp("runs")
    code, out, err = run("train.py", *SMALL, "iterations=4", "output_dir=first run", cwd=where)
    assert code == 0, err
    return where / "first run", out


def test_a_run_shows_and_leaves_what_it_promises(finished):
    folder, out = finished
    assert "before and after training" in out
    assert "pass@1" in out
    assert str(folder.name) in out
    expected = {"config.yaml", "run.jsonl", "metrics.csv", "metrics.jsonl", "samples.jsonl", "curves.png"}
    expected |= {"summary.json", "model", "checkpoints", "train.log", "held_out", "report.html"}
    assert {p.name for p in folder.iterdir()} == expected
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["iterations"] == 4
    assert summary["seconds"] > 0
    for when in ("before", "after"):
        for k in ("pass@1", "pass@8"):
            low, high = summary[when][f"{k}_interval"]
            assert 0 <= low <= summary[when][k] <= high <= 1
    record = json.loads((folder / "run.jsonl").read_text())
    assert record["versions"]["torch"] == torch.__version__
    assert (folder / "curves.png").stat().st_size > 20_000


def test_metrics_are_the_same_as_csv_and_json_lines(finished):
    folder, _ = finished
    json_rows = rows(folder)
    assert [row["iteration"] for row in json_rows] == [0, 1, 2, 3]
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for line, row in zip(table, json_rows, strict=True):
        assert {k: float(v) for k, v in line.items() if v} == {k: float(v) for k, v in row.items()}
    assert "pipo/progress" not in json_rows[1]
    assert "pipo/progress" in json_rows[2]
    assert "eval/pass@1" in json_rows[1]
    assert "eval/pass@1" not in json_rows[2]


def test_samples_are_readable(finished):
    folder, _ = finished
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 4 * 2 * 8  # iterations x prompts x responses
    assert {"iteration", "prompt", "response", "reference", "reward"} <= set(samples[0])
    assert samples[0]["prompt"].endswith("=")
    for sample in samples:
        assert (sample["answer"] == sample["reference"]) == (sample["reward"] == 1)


def test_the_model_is_an_ordinary_hugging_face_folder(finished):
    folder, _ = finished
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config._attn_implementation == "sdpa"
    state = torch.load(folder / "checkpoints/iteration_000004.ckpt/state", weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        assert torch.equal(state[f"policy.model.{name}"], value)
    ids = tokenizer("12+34=", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=4).shape[1] > ids["input_ids"].shape[1]


@pytest.mark.parametrize(
    ("what", "run_program"),
    [("checkpoints/iteration_000004.ckpt", run), pytest.param(".", run_anew, marks=pytest.mark.slow)],
)
def test_eval_scores_a_run_and_its_checkpoint_as_the_run_did(finished, tmp_path, what, run_program):
    folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    arguments = [f"model={folder / what}", "evaluation.problems=8", "output_dir=out"]
    code, text, err = run_program("eval.py", *arguments, cwd=tmp_path)
    assert code == 0, err
    assert "pass@8" in text
    results = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert results["arithmetic"]["pass@1"] == summary["after"]["pass@1"]
    assert results["arithmetic"]["pass@8_interval"] == summary["after"]["pass@8_interval"]
    assert len((tmp_path / "out/samples.jsonl").read_text().splitlines()) == 8


@pytest.mark.slow
def test_resume_goes_on_to_a_larger_budget(finished, tmp_path):
    folder, _ = finished
    whole = tmp_path / "whole"
    code, _, err = run("train.py", *SMALL, "iterations=6", f"output_dir={whole}", cwd=tmp_path)
    assert code == 0, err
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    code, _, err = run("train.py", f"resume={copy}", "iterations=6", cwd=tmp_path)
    assert code == 0, err

    def timeless(folder: Path) -> list[dict[str, float]]:
        return [
            {k: v for k, v in row.items() if not k.startswith("time/") and "per_second" not in k}
            for row in rows(folder)
        ]

    assert timeless(copy) == timeless(whole)
    summaries = [json.loads((f / "summary.json").read_text()) for f in (copy, whole)]
    assert summaries[0]["after"] == summaries[1]["after"]
    assert summaries[0]["before"] == summaries[1]["before"]


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGUSR1))],
)
def test_a_signal_leaves_a_valid_checkpoint_and_readable_metrics(tmp_path, monkeypatch, number):
    folder, asked = tmp_path / "run", tmp_path / "asked"
    scontrol = tmp_path / "bin/scontrol"  # SLURM's, as far as a run can tell
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@ $(ls {folder}/checkpoints | tail -n 1)" >> {asked}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    process = Program("train.py", *SMALL, "iterations=5000", f"output_dir={folder}", cwd=tmp_path)
    while not (folder / "metrics.jsonl").exists() or len(rows(folder)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert f"resume={folder}" in err
    checkpoint = finished_checkpoints(folder / "checkpoints")[-1]
    finished = len(rows(folder))
    assert verify(checkpoint).iterations == finished
    torch.load(checkpoint / "state", weights_only=True)
    if number == signal.SIGUSR1:  # asked once, when all was saved
        assert "job 4711 is queued again" in err
        assert asked.read_text() == f"requeue 4711 {checkpoint.name}\n"
    else:
        assert not asked.exists()
    AutoModelForCausalLM.from_pretrained(folder / "model")


def test_a_sweep_makes_one_folder_per_job_and_survives_a_failed_one(tmp_path):
    model = f"model={ROOT / 'pipo/lm/assets/tiny'}"  # a path must not make folders of its own
    # That greedy responses cannot train is found once the job is begun, and not before the sweep.
    arguments = [model, "recipe=tiny", "pipo.lambda=0.1", "rollout.temperature=1,0"]
    small = [*(a for a in SMALL if not a.startswith("pipo.")), "hydra.sweep.dir=sweep"]
    code, out, err = run("train.py", "-m", *arguments, *small, "iterations=1", cwd=tmp_path)
    assert code == 1, err
    assert "1 of 2 jobs finished" in out
    assert err.count("error: rollout.temperature must be above 0 to train") == 1
    assert "Traceback" not in err
    folders = [p for p in (tmp_path / "sweep").iterdir() if p.is_dir()]
    assert sorted(p.name[:1] for p in folders) == ["0"]  # a job that is refused leaves no folder
    assert all((p / "summary.json").exists() for p in folders)


@pytest.mark.slow
def test_ctrl_c_in_a_sweep_stops_its_job_in_good_order(tmp_path):
    arguments = ["-m", "seed=1,2", *SMALL, "iterations=5000", "hydra.sweep.dir=sweep"]
    process = Program("train.py", *arguments, cwd=tmp_path, start_new_session=True)
    while not any(len(rows(p.parent)) > 2 for p in (tmp_path / "sweep").glob("*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: every process of the group gets it
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in err
    (folder,) = [p for p in (tmp_path / "sweep").iterdir() if p.is_dir()]
    assert list((folder / "checkpoints").iterdir())


def test_a_sweep_into_one_folder_is_refused(tmp_path):
    code, _, err = run("train.py", "-m", "seed=1,2", "output_dir=mine", cwd=tmp_path)
    assert code == 2
    assert "hydra.sweep.dir=" in err


@pytest.mark.slow
def test_two_runs_that_want_the_same_folder_do_not_mix(tmp_path):
    arguments = [*SMALL, "iterations=2", "output_dir=same"]
    both = [Program("train.py", *arguments, cwd=tmp_path) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert len(rows(tmp_path / "same")) == 2
    assert len((tmp_path / "same/run.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_run_stopped_after_its_last_iteration_gets_its_summary_by_resuming(tmp_path, finished):
    whole, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    expected = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()  # as when the last evaluation was interrupted
    code, _, err = run("train.py", f"resume={folder}", cwd=tmp_path)
    assert code == 0, err
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["before"], summary["after"]) == (expected["before"], expected["after"])
    assert len(rows(folder)) == 4


@pytest.mark.slow
def test_resume_names_a_damaged_checkpoint_and_goes_on_from_the_one_before(tmp_path, finished):
    whole, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    state = folder / "checkpoints/iteration_000004.ckpt/state"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    code, _, err = run("train.py", f"resume={folder}", cwd=tmp_path)
    assert code == 0, err
    assert f"{state}: has another SHA-256 than when it was written" in err
    assert "the run goes on from iteration_000002.ckpt" in err
    assert [row["iteration"] for row in rows(folder)] == [0, 1, 2, 3]
    summaries = [json.loads((f / "summary.json").read_text()) for f in (folder, whole)]
    assert summaries[0]["after"] == summaries[1]["after"]


@pytest.mark.slow
def test_a_folder_that_is_trained_in_is_left_alone(tmp_path, finished):
    whole, _ = finished
    with held(whole):
        code, _, err = run("train.py", f"resume={whole}", "iterations=5", cwd=tmp_path)
    assert code == 2
    assert "another program is at work in this folder" in err
    assert len(rows(whole)) == 4


@pytest.mark.slow
def test_resume_forgets_what_came_after_its_checkpoint(tmp_path, finished):
    whole, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for name in ("metrics.jsonl", "samples.jsonl"):  # a crash in iteration 5 leaves its rows behind
        lines = (folder / name).read_text().splitlines(keepends=True)
        lost = {**json.loads(lines[-1]), "iteration": 4}
        (folder / name).write_text("".join(lines) + json.dumps(lost) + "\n")
    code, _, err = run("train.py", f"resume={folder}", "++iterations=5", cwd=tmp_path)
    assert code == 0, err
    assert [row["iteration"] for row in rows(folder)] == [0, 1, 2, 3, 4]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [sum(s["iteration"] == i for s in samples) for i in range(5)] == [16] * 5


@pytest.mark.slow
def test_without_a_logger_nothing_is_logged_and_the_summary_is_there(tmp_path):
    code, _, err = run("train.py", *SMALL, "iterations=1", "logger=none", "output_dir=run", cwd=tmp_path)
    assert code == 0, err
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert "summary.json" in names
    assert not names & {"metrics.jsonl", "metrics.csv", "curves.png"}


@pytest.mark.slow
def test_eval_scores_an_ordinary_hugging_face_folder(tmp_path):
    model = ROOT / "pipo/lm/assets/tiny"
    code, _, err = run("eval.py", f"model={model}", "evaluation.problems=8", "output_dir=out", cwd=tmp_path)
    assert code == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert results["arithmetic"]["samples"] == 8 * 8


@pytest.mark.slow
def test_a_search_keeps_its_best_trial(tmp_path):
    search = ["-m", "hparams_search=optuna", "hydra.sweeper.n_trials=2", "pipo.window=2"]
    code, out, err = run("train.py", *search, *SMALL[1:], "iterations=3", cwd=tmp_path)
    assert code == 0, err
    folder = tmp_path / "multirun/search/pipo"
    assert "study pipo: 2 trials" in out
    with (folder / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    summaries = [json.loads((folder / f"trial-{n}/summary.json").read_text()) for n in (0, 1)]
    # The search has from train.py what the run measured of itself at its end.
    assert [float(trial["value"]) for trial in trials] == [each["after"]["pass@1"] for each in summaries]


def test_a_mistake_is_one_line_and_no_trace(tmp_path):
    code, out, err = run_anew("train.py", "pipo.lambda=2", cwd=tmp_path)
    assert code == 2
    assert out == ""
    assert err == "error: pipo.lambda: expected a number <= 1, got 2\n"


def test_an_unknown_option_lists_the_known_ones(tmp_path):
    code, _, err = run("train.py", "algo=nonsense", cwd=tmp_path)
    assert code == 2
    assert err.startswith(
        "error: In 'train': Could not find 'algo/nonsense': Available options in 'algo': cispo"
    )
    assert err.count("\n") == 1
    code, _, err = run("train.py", "pipo.nope=1", cwd=tmp_path)
    assert code == 2
    assert err == "error: Could not override 'pipo.nope': Key 'nope' is not in struct\n"
    code, _, err = run("train.py", "pipo=none", "pipo.step_control.slope_left=0.8", cwd=tmp_path)
    assert code == 2
    assert "; pipo.step_control is null, so take one first: +pipo/step_control=default\n" in err
    assert not list(tmp_path.iterdir())
    code, _, err = run("train.py", "-m", "seed=1,2", "+pipo.lamda=0.7", cwd=tmp_path)
    assert (code, err) == (2, "error: pipo.lamda: unknown key; did you mean pipo.lambda?\n")
    assert not list(tmp_path.iterdir())  # no job was begun
