"""GSM8K: reading, prompting and grading, on rows written for this test and on real ones if given."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from pipo.errors import TaskError
from pipo.tasks.gsm8k import Gsm8kTask
from pipo.tasks.rows import Source
from pipo.tasks.template import load_template
from tests.verdicts import verdict

SMALL = Path(__file__).parents[1] / "data" / "gsm8k_small.jsonl"
INSTRUCTION = "Think step by step, then give the final answer in \\boxed{}."


def make(files: dict[str, str], **changes: Any) -> Gsm8kTask:
    options: dict[str, Any] = {
        "template": "gsm8k",
        "fewshot": 0,
        "grader_workers": 1,
        "grader_cpu_s": 30.0,
        "grader_wall_s": 300.0,
    }
    sources = {split: source(path) for split, path in files.items()}
    return Gsm8kTask(train=sources.get("train"), test=sources.get("test"), **{**options, **changes})


def source(path: str | None) -> Source:
    return Source(path=path, hub_id="openai/gsm8k", configs=("main",), split="train", revision="main")


@pytest.fixture(params=["jsonl", "json", "parquet"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    rows = [json.loads(line) for line in SMALL.read_text(encoding="utf-8").splitlines()]
    file = tmp_path / f"rows.{request.param}"
    if request.param == "jsonl":
        return SMALL
    if request.param == "json":
        file.write_text(json.dumps(rows))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


def test_reads_each_format(small: Path) -> None:
    examples = make({"train": str(small), "test": str(small)}).examples("test")
    assert [e.answer for e in examples] == ["33", "2400", "-7", "12.50", "54", "15"]
    assert examples[0].uid == "gsm8k/test/0"
    assert examples[4].question.startswith("Pavel's café sells tea at €3")


def test_chat_form_puts_worked_problems_first() -> None:
    task = make({"train": str(SMALL)}, fewshot=2)
    example = task.examples("train")[0]
    messages = task.render(example).messages
    assert [m.role for m in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[-1].content == f"{example.question}\n\n{INSTRUCTION}"
    assert messages[1].content.endswith("\\boxed{19}.")


def test_plain_form() -> None:
    task = make({"train": str(SMALL)})
    example = task.examples("train")[5]
    assert task.render(example).text == f"{INSTRUCTION}\n\nQuestion: {example.question}\nAnswer:"


def test_worked_problems_are_right() -> None:
    for worked in load_template("gsm8k").worked:
        steps = re.findall(r"(\d[\d+*/ -]+) = (\d+)", worked.response)
        assert worked.response.endswith(f"\\boxed{{{steps[-1][1]}}}.")
        assert [eval(left) for left, _ in steps] == [int(right) for _, right in steps]


def test_score() -> None:
    task = make({"train": str(SMALL)})
    example = task.examples("train")[1]
    good = [
        "\\boxed{2400}",
        "\\boxed{2,400}",
        "\\boxed{\\$2,400.00}",
        "\\boxed{2400\\text{ dollars}}",
        "\\boxed{24 \\cdot 100 = 2400}",
    ]
    bad = ["\\boxed{24 \\cdot 100}", "2400", "\\boxed{2400} no, \\boxed{2401}", "\\boxed{2,40}"]
    rewards = task.grade([example] * 9, good + bad)
    assert [r.score for r in rewards] == [1.0] * 5 + [0.0] * 4
    assert [r.error for r in rewards] == [None] * 9
    assert verdict(task, example, good[0]) == rewards[0]
    task.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('\n{"question": "q"\n', r"bad.jsonl, line 2: malformed JSON"),
        ('\n\n{"question": "q"}\n', r"bad.jsonl, line 3: no field 'answer'; there are \['question'\]"),
        (
            '{"question": "q", "answer": "no mark"}',
            r"line 1: field 'answer' has no final answer after '####'",
        ),
        (
            '{"question": "q", "answer": "5 ####  "}',
            r"line 1: field 'answer' has no final answer after '####'",
        ),
        ('{"question": "  ", "answer": "#### 1"}', r"line 1: field 'question' must be a text"),
        ('{"question": "q", "answer": 5}', r"line 1: field 'answer' must be a text that is not blank, got 5"),
        ("[1, 2]", r"line 1: a row must be a JSON object"),
        ("", r"bad.jsonl: no rows"),
        ("\n \n", r"bad.jsonl: no rows"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    with pytest.raises(TaskError, match=message):
        make({"train": str(file)}).examples("train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.json", b'[\n{"question": "q",\n"answer" "#### 1"}]', r"bad.json, line 3: malformed JSON"),
        ("bad.json", b'"question"', r"must hold a JSON list"),
        (
            "bad.json",
            b'[{"question": "q"}, {"question": "q"}]',
            r"none of the 2 rows can be used; .*bad.json, row 1: no field 'answer'",
        ),
        ("bad.jsonl", b'{"question": "\xff"}', r"not UTF-8"),
        ("bad.csv", b"", r"bad.csv: not a CSV file"),
        ("bad.txt", b"question,answer", r"must end in one of"),
        ("bad.parquet", b"not parquet", r"bad.parquet: not a Parquet file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(TaskError, match=message):
        make({"train": str(file)}).examples("train")


def test_line_separator_inside_a_string_does_not_end_a_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"question": "one\u2028two", "answer": "#### 1"}
    file.write_text(json.dumps(row, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert make({"train": str(file)}).examples("train")[0].question == "one\u2028two"


def test_bad_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"nowhere.jsonl: no such file"):
        make({"test": str(tmp_path / "nowhere.jsonl")}).examples("test")
    with pytest.raises(TaskError, match=r"gsm8k has no test split"):
        make({"train": str(SMALL)}).examples("test")
    with pytest.raises(TaskError, match=r"5 worked problems were asked for, it has 4"):
        make({"train": str(SMALL)}, fewshot=5)
    with pytest.raises(TaskError, match=r"template 'none': there is no such file; .*gsm8k"):
        make({"train": str(SMALL)}, template="none")


def test_rows_without_an_answer_are_left_out_and_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good, bad = {"question": "q", "answer": "#### 1"}, {"question": "q", "answer": "no mark"}
    file.write_text("\n".join(json.dumps(row) for row in (bad, good, {**good, "answer": 3}, good)))
    task = make({"train": str(file)})
    assert [e.uid for e in task.examples("train")] == ["gsm8k/train/1", "gsm8k/train/3"]
    assert [row.place for row in task.dropped("train")] == [f"{file}, line 1", f"{file}, line 3"]
    assert task.dropped("train")[0].reason == "field 'answer' has no final answer after '####'"


def test_hub_without_network_is_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    script = """
from pipo.errors import TaskError
from pipo.tasks.gsm8k import Gsm8kTask
from pipo.tasks.rows import Source
source = Source(path=None, hub_id="openai/gsm8k", configs=("main",), split="test", revision="main")
task = Gsm8kTask(train=None, test=source, template="gsm8k", fewshot=0,
                 grader_workers=1, grader_cpu_s=1.0, grader_wall_s=300.0)
try:
    task.examples("test")
except TaskError as error:
    print(error)
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    assert "cannot load openai/gsm8k@main (main, test) from the Hugging Face hub" in run.stdout
    assert "test_path" in run.stdout
    assert run.stdout.count("\n") == 1


def test_module_is_light_to_import() -> None:
    script = (
        "import sys, pipo.tasks.gsm8k; print([m for m in ('torch', 'datasets', 'sympy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("split", ["train", "test"])
def test_real_rows(split: Any) -> None:
    folder = os.environ.get("PIPO_DATA_DIR")
    if folder is None:
        pytest.skip("PIPO_DATA_DIR is not set: a folder with gsm8k_train.jsonl and gsm8k_test.jsonl")
    task = make({split: f"{folder}/gsm8k_{split}.jsonl"})
    examples = list(task.examples(split))
    assert len(examples) >= 60
    right = task.grade(examples, [f"So \\boxed{{{e.answer}}}." for e in examples])
    as_fraction = task.grade(
        examples, [f"\\boxed{{\\frac{{{2 * Decimal(e.answer)}}}{{2}}}}" for e in examples]
    )
    wrong = task.grade(examples, [f"So \\boxed{{{Decimal(e.answer) + 1}}}." for e in examples])
    task.close()
    assert {r.score for r in right} == {r.score for r in as_fraction} == {1.0}
    assert {r.score for r in wrong} == {0.0}
    assert {r.error for r in [*right, *as_fraction, *wrong]} == {None}
