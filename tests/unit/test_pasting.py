"""What the programs print is a command that can be pasted, also from folders with odd names."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipo import hub
from pipo.config.command_line import expand_model, expand_paths
from pipo.config.reading import read
from pipo.config.sweep import job_name
from pipo.config.tree import TrainConfig
from pipo.errors import ConfigError
from pipo.evaluation.results_file import read_results
from pipo.runs.places import resuming
from pipo.training import where
from tests.conftest import ROOT


def words(command: str) -> dict[str, str]:
    """The overrides of a printed command, as Hydra reads them after a shell."""
    line = shlex.split(command)[1:]
    expand_model(line)
    expand_paths(line)
    return {each.key_or_group: each.value() for each in OverridesParser.create().parse_overrides(line[1:])}


@pytest.mark.parametrize("folder", ["out/1-seed_2", "a=b,c", "first run", "it's (mine)", "$HOME/x", "[1]"])
def test_the_command_that_goes_on(folder):
    assert words(resuming(folder)) == {"resume": folder}


@pytest.mark.parametrize(
    ("arguments", "job", "name"),
    [
        (["-m", "seed=1,2", "iterations=1", "evaluation.ks=[1]"], ["seed=2", "iterations=1"], "3-seed_2"),
        (["-m", "pipo=default,none", "seed=range(1,3)"], ["pipo=none", "seed=1"], "3-pipo_none-seed_1"),
        (
            ["-m", "recipe.learning_rate=1e-5,1e-6"],
            ["recipe.learning_rate=1e-06"],
            "3-recipe.learning_rate_1e-06",
        ),
        (["-m", "model.path=/a/b,'/c/d e'"], ["model.path='/c/d e'"], "3-model.path_c_d_e"),
        (
            ["-m", "experiment=math_4b", "pipo.window=2,4"],
            ["experiment=math_4b", "pipo.window=4"],
            "3-pipo.window_4",
        ),
        (["-m", "seed=1"], ["seed=1"], "3"),
    ],
)
def test_a_jobs_folder_says_what_is_swept_and_nothing_else(monkeypatch, arguments, job, name):
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    assert job_name(3, job) == name


def test_a_long_name_keeps_every_swept_key(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "-m"])
    name = job_name(12, [f"model.path=/{'far/' * 50}away", "algo.objective.clip_low=0.25", "seed=3"])
    assert len(name) <= 120
    assert name.startswith("12-path_far_far_")
    assert name.endswith("-algo.objective.clip_low_0.25-seed_3")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"benchmark": "arithmetic"}),
        (["task=math"], {"benchmark": "math"}),
        (["task=science", "task.domain=physics"], {"benchmark": "science_physics"}),
        (
            ["task=math", "task.test_path=c.jsonl"],
            {"task": "math", "benchmark.parts.math.test_path": "c.jsonl"},
        ),
        (["task=gsm8k", "data_dir=rows here"], {"benchmark": "gsm8k", "data_dir": "rows here"}),
        (
            ["task=gsm8k", "task.path=a,b.jsonl", "task.test_path=c.jsonl"],
            {
                "benchmark": "gsm8k",
                "benchmark.parts.gsm8k.path": "a,b.jsonl",
                "benchmark.parts.gsm8k.test_path": "c.jsonl",
            },
        ),
    ],
)
def test_the_hint_after_training_carries_the_data(compose_config, tmp_path, monkeypatch, overrides, expected):
    monkeypatch.chdir(tmp_path)
    Path("a,b.jsonl").touch()
    given = ["train.py", *overrides]
    expand_paths(given, "data_dir")
    *_, score, on = where(tmp_path, read(compose_config(*given[1:]), TrainConfig), 3, 1.0).splitlines()
    assert words(score) == {"model": "huggingface", "model.path": str(tmp_path), **expected}
    assert words(on) == {"resume": str(tmp_path), "iterations": 6}


def test_a_training_run_is_no_evaluation(tmp_path):
    (tmp_path / "config.yaml").write_text("iterations: 1")
    with pytest.raises(ConfigError, match=r"no results\.json yet; go on with python eval\.py resume="):
        read_results(tmp_path)
    (tmp_path / "train.log").touch()
    with pytest.raises(ConfigError, match=r"a training run; evaluate it with python eval\.py model="):
        read_results(tmp_path)


def test_a_host_that_is_not_there_is_known_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert hub.reachable(f"http://127.0.0.1:{port}")
    assert not hub.reachable(f"https://127.0.0.1:{port}")
    assert not hub.reachable("https://nowhere.invalid")


def test_the_package_says_what_there_is_to_run(tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipo", *arguments]
        environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    listed = run()
    assert (listed.returncode, listed.stderr) == (0, "")
    assert all(
        name in listed.stdout for name in ("train.py", "eval.py", "pipo report", "pipo doctor", "pipo tiny")
    )
    wrong = run("trian")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert wrong.stderr.startswith(
        "error: trian: no such program; did you mean train? There are train, eval, "
    )
    passed_on = run("train", "+foo=1")
    assert passed_on.returncode == 2
    assert passed_on.stderr.startswith("error: foo: unknown key")
