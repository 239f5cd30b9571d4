"""The calculator, trained on with the embedded model that calls it: metrics, the baseline, and a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipo.records.problems import Message
from pipo.tasks.calculator import Calculator
from pipo.training import train

OPTIONS = ["task=calculator", "model=tiny_tools", "recipe.responses=32", "recipe.mini_batch=32"]
OPTIONS += ["task.source.train_problems=64", "task.source.test_problems=4", "evaluation.problems=4"]
OPTIONS += [
    "evaluation.samples=2",
    "evaluation.ks=[1]",
    "curve.every=100",
    "samples.every=1",
    "samples.prompts=4",
]


def rows(folder: Path) -> list[dict[str, float]]:
    """Metrics without times, which differ."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "time/" not in k and "per_second" not in k} for row in found]


@pytest.fixture(scope="module")
def trained(compose_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations, the third with a retrospective update."""
    folder = tmp_path_factory.mktemp("calculator") / "run"
    train(compose_config(*OPTIONS, "pipo.window=2", "iterations=3", f"output_dir={folder}"), [])
    return folder


def test_turns_and_calls_are_counted_as_the_samples_show_them(trained: Path) -> None:
    found = rows(trained)
    samples = [json.loads(line) for line in (trained / "samples.jsonl").read_text().splitlines()]
    assert [row["pipo/applied"] for row in found] == [0, 0, 1]
    assert any(row["rollout/tool_errors"] > 0 for row in found)
    for number, row in enumerate(found):
        episodes = [each for each in samples if each["iteration"] == number]
        assert len(episodes) == 32  # all of the iteration's
        said = [[each["content"] for each in episode["messages"]] for episode in episodes]
        assert row["rollout/turns"] == pytest.approx(sum(len(each[::2]) for each in said) / 32)
        calls = errors = unknown = 0
        for episode, texts in zip(episodes, said, strict=True):
            assert [each["role"] for each in episode["messages"]] == ["assistant", "tool"] * (
                len(texts) // 2
            ) + ["assistant"]
            for turn, answer in zip(texts[::2], [*texts[1::2], None], strict=True):
                if answer is None and not episode["finished"]:
                    unknown += 1  # the calculator was asked if the turn ended by itself
                    continue
                reply = Calculator().step((Message(role="assistant", content=turn),))
                assert answer in (None, *(message.content for message in reply.messages))
                calls, errors = calls + reply.tool_calls, errors + reply.tool_errors
        assert calls / 32 <= row["rollout/tool_calls"] <= (calls + unknown) / 32
        failed = row["rollout/tool_errors"] * row["rollout/tool_calls"] * 32
        assert errors - 1e-6 <= failed <= errors + unknown + 1e-6


def test_a_run_without_pipo_is_the_same_until_pipo_acts(
    trained: Path, compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(compose_config(*OPTIONS, "pipo=none", "iterations=2", f"output_dir={folder}"), [])
    shared = [{k: v for k, v in row.items() if not k.startswith("pipo/")} for row in rows(trained)[:2]]
    assert [{k: row[k] for k in shared[0]} for row in rows(folder)] == shared


@pytest.mark.slow  # test_several_turns.py has a quick one
def test_a_resumed_run_repeats_the_episodes(
    trained: Path, compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(compose_config(*OPTIONS, "pipo.window=2", "iterations=2", f"output_dir={folder}"), [])
    again = [f"resume={folder}", "iterations=3"]
    train(compose_config(*again), again)
    assert rows(folder) == rows(trained)
    assert (folder / "samples.jsonl").read_text() == (trained / "samples.jsonl").read_text()
