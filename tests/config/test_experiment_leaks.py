"""No experiment trains on the problems it is measured by."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipo.config.models import find_model
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.records.problems import Example
from pipo.tasks.rows import Source, read_file
from tests.built import at_its_task, built
from tests.config.experiments import DOMAINS, TABLES, composed
from tests.conftest import ROOT

BENCHMARKS = ("math", "code", "tools", "science")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A task that experiments train on.

    Attributes:
        experiment: one of them, as it is typed.
        task: the task alone, likewise.
        benchmark: what their table is about.
        rows: made-up rows for the task, in tests/data.
        real: its real training rows, in PIPO_DATA_DIR.
    """

    experiment: str
    task: str
    benchmark: str
    rows: str
    real: str


TASKS = {
    "math": Trained(
        experiment="experiment=math_4b",
        task="task=math",
        benchmark="math",
        rows="math_small",
        real="math_train",
    ),
    "code": Trained(
        experiment="experiment=code",
        task="task=code",
        benchmark="code",
        rows="taco_small",
        real="taco_train_quoted_rows",
    ),
    "tool_use": Trained(
        experiment="experiment=tool_use",
        task="task=tool_use",
        benchmark="tools",
        rows="rlla_small",
        real="rlla_sft",
    ),
    **{
        f"science_{domain}": Trained(
            experiment=f"experiment=science task.domain={domain}",
            task=f"task=science task.domain={domain}",
            benchmark="science",
            rows="science_sdpo_small",
            real=f"sdpo_form/sciknoweval_{domain}_train",
        )
        for domain in DOMAINS
    },
}


Published = tuple[str, tuple[str, ...], str, tuple[str, ...] | None]


def published(source: Source) -> Published:
    """Which rows of which data set."""
    return source.hub_id, source.configs, source.split, source.data_files


def questions(examples: Sequence[Example]) -> set[str]:
    """Without what two copies of a problem may differ in: case and blanks."""
    return {" ".join(e.question.casefold().split()) for e in examples}


def test_these_are_the_tasks_of_all_experiments():
    assert {composed(*table.split()).task.name for table in TABLES} == set(TASKS)


@functools.cache
def scored(benchmark: str) -> dict[str, Published]:
    """The rows of a benchmark's parts, as far as a training task could read them."""
    cfg = composed(f"benchmark={benchmark}", name="eval")
    keys = {part: f"benchmark.parts.{part}.source.test" for part in cfg.benchmark.parts}
    return {
        part: published(built(cfg, key))
        for part, key in keys.items()
        if OmegaConf.select(cfg, key)._target_ == "pipo.tasks.rows.Source"
    }


@pytest.mark.parametrize("task", TASKS)
def test_the_training_rows_are_no_benchmarks_rows(task):
    """By the names under which they are published."""
    trained = published(built(composed(*TASKS[task].task.split()), "task.source.train"))
    assert [part for name in BENCHMARKS for part, rows in scored(name).items() if rows == trained] == []


@pytest.mark.parametrize("task", TASKS)
def test_the_curve_of_a_run_is_a_part_of_its_benchmark(task):
    """So what a run leaves out of training for its curve is left out for the table, too."""
    held_out = published(built(composed(*TASKS[task].task.split()), "task.source.test"))
    assert held_out in scored(TASKS[task].benchmark).values()


@pytest.mark.parametrize("task", TASKS)
def test_training_problems_that_are_held_out_are_dropped(task, tmp_path):
    """A held-out row smuggled into the training file does not come out again."""
    rows = (ROOT / f"tests/data/{TASKS[task].rows}.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(rows))
    (tmp_path / "test.jsonl").write_text(rows[0])
    fields = ["answer=solution", "answer_form=boxed"] if task == "math" else []
    cfg = composed(
        *TASKS[task].experiment.split(),
        f"task.path={tmp_path}/train.jsonl",
        f"task.test_path={tmp_path}/test.jsonl",
        "task.max_prompt_tokens=100000",
        *(f"task.source.test_fields.{field}" for field in fields),
    )
    setup = at_its_task(read(cfg, TrainConfig), find_model(read(composed(), TrainConfig).model))
    try:
        (held_out,) = setup.problems("test").examples
        problems = setup.problems("train")
        reasons = {each.reason for each in problems.dropped}
        assert f"has the same question as the held-out problem {held_out.uid}" in reasons
        assert problems.examples
        assert not questions(problems.examples) & questions([held_out])
    finally:
        setup.task.close()


# Where the folder's names are not those of data_dir.
REAL_PARTS = {"taco": "taco_test_reconstructed", "livecodebench": "livecodebench_v6_reconstructed"}


def real_folder() -> Path:
    folder = os.environ.get("PIPO_DATA_DIR")
    if folder is None:
        pytest.skip("PIPO_DATA_DIR is not set: a folder with rows of the data sets, see docs/tasks")
    return Path(folder)


@functools.cache
def benchmark_questions(name: str) -> dict[str, set[str]]:
    """The questions of every part of a benchmark, from the rows in the folder."""
    cfg = composed(f"benchmark={name}", f"data_dir={real_folder()}", name="eval").copy()
    for part, stem in REAL_PARTS.items():
        if part in cfg.benchmark.parts:
            cfg.benchmark.parts[part].test_path = f"{real_folder()}/{stem}.jsonl"
    parts = {}
    for part in cfg.benchmark.parts:
        task = built(cfg, f"benchmark.parts.{part}.source")
        parts[part] = questions(task.examples("test"))
        task.close()
    return parts


@pytest.mark.parametrize("task", TASKS)
def test_no_real_training_row_stands_in_the_benchmark(task):
    """After the program's own dropping, and against every part, not only the run's own held-out problems."""
    folder = real_folder()
    cfg = composed(*TASKS[task].experiment.split(), f"data_dir={folder}").copy()
    cfg.task.path = f"{folder}/{TASKS[task].real}.jsonl"
    if task == "code":
        cfg.task.test_path = f"{folder}/{REAL_PARTS['taco']}.jsonl"
    cfg.task.max_prompt_tokens = 1_000_000  # in characters here; length is not what this is about
    setup = at_its_task(read(cfg, TrainConfig), find_model(read(composed(), TrainConfig).model))
    try:
        problems = setup.problems("train")
    finally:
        setup.task.close()
    rows = len(read_file(Path(cfg.task.path)))
    leaked = [each for each in problems.dropped if "the held-out problem" in each.reason]
    assert len(problems.examples) + len(problems.dropped) == rows
    # One problem of materials science stands in both published splits.
    assert len(leaked) == (1 if task == "science_material" else 0)
    trained = questions(problems.examples)
    parts = benchmark_questions(TASKS[task].benchmark)
    assert all(parts.values())
    assert {part: trained & measured for part, measured in parts.items()} == {part: set() for part in parts}
