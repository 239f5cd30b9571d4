"""The files that docs/extending.md shows are enough: taken out of the page, trained with and scored."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from pipo.config.command_line import expand_task
from pipo.records.problems import Example, Reward
from pipo.rollout.reward_terms import GradedResponses, reward_terms
from pipo.scoring import score
from pipo.training import train
from tests import programs
from tests.conftest import ROOT
from tests.documented import write_extensions

SMALL = ["recipe.responses=32", "recipe.mini_batch=32", "evaluation.problems=4", "iterations=3"]
SMALL += ["pipo.window=2", "samples.every=1", "curve.every=100"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A folder outside of the repository with nothing but the page's files in ``my/``."""
    return write_extensions(tmp_path_factory.mktemp("own"))


def run(program: str, *arguments: str, cwd: Path) -> tuple[int, str]:
    """Status and errors, with the page's files in ``my/``."""
    environment = {"PYTHONPATH": f"my:{ROOT}"}
    code, _, err = programs.run(
        program, "--config-dir", "my/conf", *arguments, cwd=cwd, environment=environment
    )
    return code, err


def test_each_extension_is_one_python_file_and_one_yaml_file(mine):
    written = sorted(str(path.relative_to(mine)) for path in mine.rglob("*") if path.is_file())
    assert written == [
        "my/conf/algo/median_grpo.yaml",
        "my/conf/reward_terms/short_right.yaml",
        "my/conf/rollout/generate.yaml",
        "my/conf/task/near_sums.yaml",
        "my/conf/task/warmer.yaml",
        "my/generate_engine.py",
        "my/median_grpo.py",
        "my/near_sums.py",
        "my/short_right.py",
        "my/warmer.py",
    ]


def test_the_pages_objective_task_and_engine_train(mine):
    code, err = run(
        "train.py",
        *("algo=median_grpo", "task=near_sums", "rollout=generate", "+reward_terms=short_right"),
        *(*SMALL, "output_dir=run"),
        cwd=mine,
    )
    assert code == 0, err
    rows = [json.loads(line) for line in (mine / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    # The objective: a step was made, and policy improvement went through it.
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    assert rows[2]["pipo/applied"] == 1
    # The engine: bfloat16 has 8 bits, so its log-probabilities are near the trainer's, but not equal.
    assert all(0 < row["rollout/logprob_diff"] < 0.1 for row in rows)
    # The reward term: in a group of 8 with a right response, one to all of them get 0.2.
    added = [row["train/reward_terms/short_right"] for row in rows]
    assert max(added) > 0
    assert all(
        0 <= value <= 0.2 * row["train/accuracy"] + 1e-7 for value, row in zip(added, rows, strict=True)
    )
    assert added == [row["train/shaping"] for row in rows]
    # The task: its problems, and a reward between none and all.
    samples = [json.loads(line) for line in (mine / "run/samples.jsonl").read_text().splitlines()]
    assert samples
    for sample in samples:
        assert sample["uid"].startswith("near_sums/train/")
        a, b = map(int, sample["prompt"].removesuffix("=").split("+"))
        distance = abs(int(sample["answer"]) - (a + b)) if sample["answer"] else 20
        assert sample["reward"] == pytest.approx(max(0.0, 1 - distance / 20), abs=1e-6)
    assert len({sample["reward"] for sample in samples}) > 2


def test_the_pages_reward_term_by_hand(mine, monkeypatch):
    monkeypatch.syspath_prepend(str(mine / "my"))
    short_right = importlib.import_module("short_right")
    sys.modules.pop("short_right")
    # Groups of three. First: 4 tokens is the shortest, but wrong; both of 5 are right. Second: none is right.
    rewards, lengths = [0.9, 1.0, 1.0, 0.0, 0.5, 0.0], [4, 5, 5, 1, 2, 3]
    graded = GradedResponses(
        examples=(Example(uid="x/0", question="", answer=""),) * 6,
        texts=("",) * 6,
        verdicts=tuple(Reward(score=score) for score in rewards),
        rewards=torch.tensor(rewards),
        lengths=torch.tensor(lengths),
        finished=torch.ones(6, dtype=torch.bool),
        group_size=3,
    )
    term = {"short_right": short_right.ShortRight(bonus=0.25)}
    assert reward_terms(term, graded)["short_right"].tolist() == [0, 0.25, 0.25, 0, 0, 0]


def test_the_pages_environment_trains_and_says_what_it_should(mine, monkeypatch, compose_config):
    monkeypatch.syspath_prepend(str(mine / "my"))
    options = (
        "algo.group_size=4",
        "recipe.responses=16",
        "recipe.mini_batch=16",
        "pipo=none",
        "iterations=1",
    )
    options += ("evaluation.problems=2", "evaluation.samples=2", "evaluation.ks=[1]", "samples.every=1")
    folder = mine / "warmer"
    where = (f"hydra.searchpath=[file://{mine / 'my/conf'}]", f"output_dir={folder}")
    train(compose_config(*where, "task=warmer", *options), [])
    (row,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert 1 < row["rollout/turns"] <= 3
    assert row["rollout/tool_calls"] <= row["rollout/turns"]
    assert row["rollout/tool_tokens"] > 0
    tried = 0
    for sample in map(json.loads, (folder / "samples.jsonl").read_text().splitlines()):
        total = sum(map(int, sample["prompt"].removesuffix("=").split("+")))
        said, worth, score = sample["messages"], 1.0, 0.0
        for i in range(0, len(said), 2):
            numbers = re.findall(r"\d+", said[i]["content"])
            score = max(0.0, 1 - abs(int(numbers[-1][:9]) - total) / 20) if numbers else 0.0
            if i + 1 < len(said):
                hint = "?" if not numbers else "<" if int(numbers[-1]) > total else ">"
                assert said[i + 1] == {"role": "tool", "content": f"\n{hint}\n{sample['prompt']}"}
                worth, tried = worth / 2, tried + 1
        if sample["finished"]:
            assert sample["reward"] == pytest.approx(worth * score, abs=1e-6)
    assert tried > 4
    for name in ("warmer", "near_sums"):
        sys.modules.pop(name)


def test_a_task_of_ones_own_is_scored_without_a_benchmark_file(mine, monkeypatch, compose_config):
    monkeypatch.syspath_prepend(str(mine / "my"))
    arguments = ["task=near_sums", "evaluation.problems=4", f"output_dir={mine / 'scored'}"]
    expand_task(arguments)
    score(compose_config(f"hydra.searchpath=[file://{mine / 'my/conf'}]", *arguments, name="eval"), [])
    sys.modules.pop("near_sums")
    results = json.loads((mine / "scored/results.json").read_text())["results"]
    assert list(results) == ["near_sums"]
    assert results["near_sums"]["samples"] == 4 * 8


def test_a_task_that_grades_by_another_method_is_refused_by_its_name(mine, tmp_path):
    """Before, a ``score`` beside the parent's ``grade`` would have been left lying without a word."""
    page = (mine / "my/near_sums.py").read_text()
    assert page.count("def grade(self") == page.count("self.verdict, ") == 1
    (tmp_path / "my/conf/task").mkdir(parents=True)
    (tmp_path / "my/near_sums.py").write_text(page.replace("def verdict(", "def score("))
    yaml = (mine / "my/conf/task/near_sums.yaml").read_text()
    (tmp_path / "my/conf/task/near_sums.yaml").write_text(yaml)
    code, err = run("train.py", "task=near_sums", "output_dir=run", cwd=tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: task.source._target_: near_sums.NearSumsTask cannot be used (")
    assert "NearSumsTask.score would never be called: responses are graded by grade(" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_verdicts_that_are_not_one_for_each_response_end_the_run_with_the_class(mine, tmp_path):
    page = (mine / "my/near_sums.py").read_text()
    (tmp_path / "my/conf/task").mkdir(parents=True)
    (tmp_path / "my/near_sums.py").write_text(
        page.replace("examples, responses)\n\n", "examples, responses)[1:]\n\n")
    )
    yaml = (mine / "my/conf/task/near_sums.yaml").read_text()
    (tmp_path / "my/conf/task/near_sums.yaml").write_text(yaml)
    code, err = run("train.py", "task=near_sums", *SMALL, "output_dir=run", cwd=tmp_path)
    assert code == 2
    # Four held-out problems before the first iteration, 8 responses each.
    said = "error: NearSumsTask.grade must return one Reward per response, got 31 of 32\n"
    assert err.endswith(said), err


def test_a_task_and_a_benchmark_are_not_both_scored(mine):
    code, err = run("eval.py", "task=near_sums", "benchmark=arithmetic", cwd=mine)
    assert code == 2
    assert err == "error: task= and benchmark= both say what to score; name one of them\n"
