"""Mathematics: reading, prompting and grading, on rows written for this test and on real ones if given."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from pipo.errors import ConfigError, TaskError
from pipo.graders.math import last_boxed
from pipo.tasks.math import MathFields, MathTask
from pipo.tasks.rows import Source, read_file
from tests.built import built
from tests.verdicts import verdict

DATA = Path(__file__).parents[1] / "data"
INSTRUCTION = "Please solve this step by step and put your final answer in \\boxed{}."
# Rows per file; the sets of 500, 30, 40 and 272 are complete.
REAL = {"math500": 500, "aime25": 30, "amc23": 40, "minervamath": 272, "olympiadbench": 70}
Compose = Callable[..., DictConfig]


def fields(**changes: Any) -> MathFields:
    options = {
        "question": "problem",
        "answer": "solution",
        "answer_form": "boxed",
        "level": "level",
        "context": None,
    }
    return MathFields(**{**options, **changes})


ANSWERS = fields(
    question="question", answer="answer", answer_form="plain", level="subfield", context="context"
)


def make(file: Path, names: MathFields, template: str = "math") -> MathTask:
    source = Source(path=str(file), hub_id="x/y", configs=("default",), split="test", revision="main")
    return MathTask(
        name="mine",
        train=None,
        train_fields=None,
        test=source,
        test_fields=names,
        template=template,
        grader_workers=1,
        grader_cpu_s=30.0,
        grader_wall_s=300.0,
    )


def real(name: str) -> Path:
    folder = os.environ.get("PIPO_DATA_DIR")
    if folder is None:
        pytest.skip(f"PIPO_DATA_DIR is not set: a folder with {name}.jsonl")
    return Path(folder) / f"{name}.jsonl"


def test_answers_in_solutions() -> None:
    task = make(DATA / "math_small.jsonl", fields())
    examples = task.examples("test")
    assert [e.answer for e in examples] == ["\\frac{3}{4}", "-3, 3", "23_4"]
    assert [e.level for e in examples] == ["1", "", "5"]
    assert examples[0].uid == "mine/test/0"
    (dropped,) = task.dropped("test")
    assert dropped.place.endswith("math_small.jsonl, line 4")
    assert "has no \\boxed{...} with an answer; is answer_form=plain meant?" in dropped.reason


def test_answers_of_every_type() -> None:
    task = make(DATA / "math_answers_small.jsonl", ANSWERS)
    examples = task.examples("test")
    assert [e.answer for e in examples] == [
        "120",
        "$6.0 \\times 10^{-3}$",
        "$0$, $1$",
        "4",
        "16, 32, \\ldots",
    ]
    assert examples[1].question.startswith("A snail moves at")
    assert examples[1].question.endswith("\n\nHow far does it get in $3 \\mathrm{~s}$?")
    assert [d.reason for d in task.dropped("test")] == [
        "field 'answer' must hold a text, a number or a list of them, got True",
        "field 'answer' is an empty list",
        "field 'answer' is blank",
    ]
    right = ["2 \\cdot 60 = 120 \\text{ minutes}", "0.006", "1 \\text{ and } 0", "4.0", "16, 32, \\ldots"]
    wrong = ["2 \\cdot 60 \\text{ minutes}", "0.0006", "1", "3 \\text{ or } 4", "16, 32"]
    rewards = task.grade([*examples, *examples], [f"\\boxed{{{a}}}" for a in right + wrong])
    doubtful = task.doubtful("test")
    task.close()
    assert [r.score for r in rewards] == [1.0] * 5 + [0.0] * 5
    assert [d.place for d in doubtful] == ["mine/test/4"]
    assert "compared as text" in doubtful[0].reason


def test_spoiled_backslashes_of_references_are_repaired_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    spoiled = [
        r"\\frac{3}{4}",
        r"\\\\frac{3}{4}",
        "\frac{3}{4}",
        r"-3, 3",
        r"\begin{pmatrix}x\\y\end{pmatrix}",
    ]
    solutions = [r"So \\boxed{\\frac{3}{4}}.", r"So \boxed{\\frac{3}{4}}.", "So \boxed{5}."]
    for name, answers in (("answer", spoiled), ("solution", solutions)):
        rows = [{"problem": "What is it?", name: answer} for answer in answers]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        form = "plain" if name == "answer" else "boxed"
        task = make(path, fields(answer=name, answer_form=form, level=None))
        read = [e.answer for e in task.examples("test")]
        task.close()
        right = r"\frac{3}{4}"
        expected = [right] * 3 + spoiled[3:] if form == "plain" else [right, right, "5"]
        assert read == expected


def test_a_task_can_be_copied_and_pickled() -> None:
    task = make(DATA / "math_answers_small.jsonl", ANSWERS)
    places = [d.place for d in task.doubtful("test")]
    for twin in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert [d.place for d in twin.doubtful("test")] == places == ["mine/test/4"]
        assert verdict(twin, twin.examples("test")[0], "\\boxed{120}").score == 1.0
        twin.close()
    task.close()


def test_prompt_in_both_forms() -> None:
    task = make(DATA / "math_small.jsonl", fields())
    example = task.examples("test")[1]
    prompt = task.render(example)
    assert task.template == "math/1"
    assert [(m.role, m.content) for m in prompt.messages] == [("user", f"Solve $x^2 = 9$.\n\n{INSTRUCTION}")]
    assert prompt.text == f"Problem: Solve $x^2 = 9$.\n\n{INSTRUCTION}\n\nSolution:"


def test_wrong_field_names_say_what_is_there() -> None:
    task = make(DATA / "math_small.jsonl", fields(question="question", level="difficulty"))
    with pytest.raises(
        TaskError,
        match=r"none of the 4 rows can be used; .*line 1: no field 'question', 'difficulty'; there are "
        r"\['level', 'problem', 'solution', 'type'\]; say what they are called in source.test_fields",
    ):
        task.examples("test")


def test_bad_options_are_named(compose_config: Compose) -> None:
    with pytest.raises(ValueError, match="answer_form must be plain or boxed, got 'latex'"):
        fields(answer_form="latex")
    cfg = compose_config("task=math", "task.source.train=null")
    with pytest.raises(ConfigError, match=r"task.source: train and train_fields belong together"):
        built(cfg, "task.source")
    task = make(DATA / "math_small.jsonl", fields())
    with pytest.raises(TaskError, match="mine has no train split"):
        task.examples("train")


def test_the_group_holds_the_papers_five_sets_in_order(compose_config: Compose) -> None:
    group = compose_config("benchmark=math", name="eval").benchmark
    assert list(group.parts) == list(REAL)
    for name in REAL:
        alone = compose_config(f"benchmark={name}", name="eval").benchmark
        assert alone.parts == {name: group.parts[name]}
        assert group.parts[name].source.name == name
        built(compose_config("benchmark=math", name="eval"), f"benchmark.parts.{name}.source").close()


@pytest.mark.parametrize("name", list(REAL))
def test_gold_answers_are_right(compose_config: Compose, name: str) -> None:
    file = real(name)
    cfg = compose_config(f"benchmark={name}", f"data_dir={file.parent}", name="eval")
    task = built(cfg, f"benchmark.parts.{name}.source")
    examples = task.examples("test")
    assert (len(examples), len(task.dropped("test"))) == (REAL[name], 0)
    responses = [f"So \\boxed{{{e.answer}}}." for e in examples]
    if name == "math500":
        responses = [row.fields["solution"] for row in read_file(file)]
    if name == "minervamath":
        written = [row.fields["solution"] for row in read_file(real("minerva_math_qwen_form"))]
        responses = [s if last_boxed(s) else r for s, r in zip(written, responses, strict=True)]
    rewards = task.grade(examples, responses)
    some = examples[::5]  # algebra takes longest to find a difference
    others = task.grade(some, ["\\boxed{-9876.5}"] * len(some))
    doubtful = [d.place for d in task.doubtful("test")]
    task.close()
    assert {(r.score, r.error) for r in rewards} == {(1.0, None)}
    assert {(r.score, r.error) for r in others} == {(0.0, None)}
    # Algebra reads neither the prose of one answer nor the interval "t(0,4]" of another.
    assert len(doubtful) == (2 if name == "olympiadbench" else 0)


@pytest.mark.parametrize(
    ("name", "rows", "names"),
    [
        ("math_train", 500, fields()),
        ("math_test", 105, fields()),
        (
            "amc23_qwen_form",
            40,
            fields(answer="answer", answer_form="plain", level=None),
        ),
        ("minerva_math_qwen_form", 272, fields(level="type")),
    ],
)
def test_every_real_file_loads_whole(name: str, rows: int, names: MathFields) -> None:
    task = make(real(name), names)
    assert (len(task.examples("test")), len(task.dropped("test"))) == (rows, 0)
    assert not any("." in e.answer for e in task.examples("test") if name.startswith("amc"))


def test_rows_of_the_papers_authors(tmp_path: Path) -> None:
    """Their references are lists of one text: a whole solution for MATH-500, an answer for Minerva."""
    rows = [row.fields for row in read_file(real("pipo_authors_rows"))]
    for part, form in (("MATH-500", "boxed"), ("Minerva", "plain")):
        chosen = [
            json.loads(row["row"]) if isinstance(row["row"], str) else row["row"]
            for row in rows
            if part in row["file"]
        ]
        flat = [
            {"problem": r["prompt"][0]["content"], "answer": r["reward_model"]["ground_truth"]}
            for r in chosen
        ]
        file = tmp_path / f"{part}.json"
        file.write_text(json.dumps(flat))
        task = make(file, fields(answer="answer", answer_form=form, level=None))
        assert (len(task.examples("test")), len(task.dropped("test"))) == (4, 0)


def test_no_held_out_problem_is_trained_on(compose_config: Compose) -> None:
    cfg = compose_config("task=math", f"data_dir={real('math_train').parent}")
    assert cfg.task.source.train.split == "train"  # the official one
    task = built(cfg, "task.source")
    train, held_out = (
        {" ".join(e.question.split()) for e in task.examples(split)} for split in ("train", "test")
    )
    assert len(held_out) == 500
    assert not train & held_out
