"""docs/metrics.md explains every metric that a run can log, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from pipo.training import train
from tests.conftest import ROOT

SMALL = ("recipe.responses=16", "recipe.mini_batch=16", "evaluation.problems=2", "samples.every=100")
# Between them these switch on everything that logs: nothing has a critic and a self-teacher at once.
RUNS = (
    (
        "algo=dapo",
        "algo.objective.kl_coef=0.001",
        "algo.dynamic_sampling_rounds=2",
        "+reward_terms=overlong",
        "algo.reward_terms.overlong.buffer=16",
        "pipo.window=2",
        "pipo.kl_coef=0.001",
        "rollout.importance_correction=token",
        "rollout.rejection={level: geometric, low: 0.5, high: null}",
        "probe.prompts=2",
        "recipe.learning_rate=1e-4",
        "iterations=3",
        "curve.every=3",
    ),
    (
        "pipo=paired",
        "+pipo/step_control=default",
        "probe.prompts=2",
        "recipe.learning_rate=1e-4",
        "iterations=4",
    ),
    (
        "algo=ppo",
        "pipo=none",
        "iterations=1",
        "rollout.min_p=0.1",
        "task=prompts",
        "task.path=rows.jsonl",
        "reward=mine.py:length",
        "task.max_response_tokens=24",
        "task.held_out=4",
    ),
    ("algo=sdpo", "pipo=none", "iterations=1"),
    ("task.source._target_=tests.replies.AskedAgain", "pipo=none", "iterations=1"),
)


def table_rows() -> list[str]:
    lines = (ROOT / "docs/metrics.md").read_text().splitlines()
    return [line for line in lines if line.startswith("| `")]


def explained() -> list[str]:
    """Names in the first cells of the page's tables."""
    return [name for row in table_rows() for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def logged(compose_config: Callable, folder: Path, overrides: tuple[str, ...]) -> set[str]:
    train(compose_config(*SMALL, *overrides, f"output_dir={folder}"), [])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {re.sub(r"level_\d+", "level_<level>", name) for row in rows for name in row}
    return {re.sub(r"(?<=/reward_terms/).*|(?<=train/rewards/).*", "<name>", name) for name in names} - {
        "iteration"
    }


def test_the_page_and_the_program_name_the_same_metrics(compose_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps({"prompt": f"{n}+1="}) + "\n" for n in range(40)))
    Path("mine.py").write_text(
        "def length(completions):\n    return [len(text) / 9 for text in completions]\n"
    )
    names: set[str] = set()
    for index, overrides in enumerate(RUNS):
        names |= logged(compose_config, tmp_path / str(index), overrides)
    assert names == set(explained())


def test_no_metric_is_explained_twice():
    names = explained()
    assert sorted(names) == sorted(set(names))


def test_every_metric_has_a_unit_a_denominator_and_what_to_expect():
    for row in table_rows():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 5, row
        assert all(cells), row


def test_no_name_in_the_source_is_unknown_to_the_page():
    """A metric that only a rare option logs would not be seen by a run; its name stands somewhere."""
    written = {
        name
        for path in (ROOT / "pipo").rglob("*.py")
        for name in re.findall(
            r'"((?:train|rollout|policy|value|pipo|probe|eval|time)/[\w@/]+)"', path.read_text()
        )
    }
    assert len(written) > 30
    # Summed up for the two rates and never logged; a table of eval.py's, see docs/evaluation.md.
    assert written - {"rollout/sampled_tokens", "eval/table"} <= set(explained())
