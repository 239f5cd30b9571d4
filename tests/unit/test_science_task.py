"""SciKnowEval: both forms of rows, the prompt, and what is read as an answer."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipo.errors import TaskError
from pipo.graders.choice import grade_choice, read_choice
from pipo.tasks.rows import Source
from pipo.tasks.science import ScienceTask, restored
from tests.verdicts import verdict

DATA = Path(__file__).parents[1] / "data"
SPLITS = {"biology": (450, 50), "chemistry": (1890, 210), "material": (841, 94), "physics": (720, 80)}


def make(path: str | Path, domain: str = "material") -> ScienceTask:
    rows = Source(path=str(path), hub_id="own/rows", configs=("default",), split="test", revision="main")
    return ScienceTask(domain=domain, train=rows, test=rows, template="science")


def test_rows_of_the_data_set() -> None:
    task = make(DATA / "science_small.jsonl")
    examples = task.examples("test")
    assert task.name == "science_material"
    assert [e.uid for e in examples] == [f"science_material/test/{i}" for i in range(5)]
    assert [(e.answer, e.level, len(e.choices)) for e in examples] == [
        ("B", "L1", 4),
        ("B", "L3", 2),
        ("A", "L4", 3),
        ("C", "L1", 5),
        ("D", "L1", 4),
    ]
    assert examples[0].question == (
        "Which metal is liquid at room temperature?\n\nA: Iron\nB: Mercury\nC: Gold\nD: Tin"
    )
    assert examples[2].question == (
        "What does Al\\textsubscript{2}O\\textsubscript{3} of density \\rho contain?\n\n"
        "A: Al\nB: O\\textsubscript{2}\nC: \\frac{1}{2}  Ti"
    )
    assert [d.reason for d in task.dropped("test")][:-1] == [
        "the answer 'D' is none of the 2 choices",
        "choice B is blank",
        "type 'open-ended-qa' is not multiple choice",
        "its domain is Biology, not material",
        "the labels of 'choices' must be A, B, C, ..., got ['1', '2']",
        "field 'choices' must hold the lists 'text' and 'label', got ['a', 'b']",
        "field 'details' must hold a text 'level', got 'L1'",
    ]
    assert task.dropped("test")[-1].reason.startswith("neither the fields of SciKnowEval (question, choices,")


def test_rows_of_sdpo() -> None:
    task = make(DATA / "science_sdpo_small.jsonl")
    heaviest, side = task.examples("train")
    assert heaviest.choices == ("x", "y: B", "z", "none")
    assert heaviest.question == "Which is heaviest?\nGiven data:\n\nx: 1\n\n\nA: x\nB: y: B\nC: z\nD: none"
    assert (side.choices, side.answer, side.level) == (("left", "right"), "A", "")
    assert [d.reason for d in task.dropped("train")] == [
        "kind 'tooluse' is not multiple choice (mcq)",
        "field 'prompt' has no choices after a blank line (A: ..., B: ...)",
        "the answer 'C' is none of the 2 choices",
        "1 choices; 2 to 26 can be asked for",
    ]


def test_control_characters() -> None:
    assert (
        restored("\text{a}\r\n\rho \x0crac{1}{2} \beta\x00\x7f") == "\\text{a}\n\\rho \\frac{1}{2} \\beta  "
    )
    assert restored("plain\ntext, äµ\u2028") == "plain\ntext, äµ\u2028"


def test_prompt_names_the_letters_of_the_row() -> None:
    task = make(DATA / "science_small.jsonl")
    four, two = (task.render(e) for e in task.examples("test")[:2])
    assert [m.role for m in four.messages] == ["system", "user"]
    assert "write one letter (A, B, C or D) and nothing else." in four.messages[0].content
    assert "write one letter (A or B) and nothing else." in two.messages[0].content
    assert two.messages[1].content == "Is glass a crystal?\n\nA: yes\nB: no\nPlease reason step by step."
    assert two.text.startswith("A question with options, the reasoning between <reasoning> and </reasoning>")
    assert two.text.endswith(
        "(A or B) and nothing else.\n\nIs glass a crystal?\n\nA: yes\nB: no\n\n<reasoning>"
    )


CHOICES = ("the nucleus", "the mitochondrion", "B cells", "DNA")


@pytest.mark.parametrize(
    "inner",
    [
        *["B", "b", " B\n", "(B)", "[B]", "( B )", "**B**", "B.", "B)", "B:", "**B.**", "B." + " " * 100_000],
        *["B: the mitochondrion", "B. The  mitochondrion.", "b) the mitochondrion", "B:the mitochondrion"],
        "**B: the mitochondrion**",
        *[
            "**(B)**",
            "(**B**).",
            "`B`",
            "$B$",
            r"\boxed{B}",
            r"$\boxed{\text{B}}$",
            "B,",
            "*b*",
            "(B).",
            "((B))",
        ],
        *[
            "(B): the mitochondrion",
            "(B) the mitochondrion",
            "**B.** the mitochondrion",
            "`B`: the mitochondrion",
        ],
    ],
)
def test_what_is_read_as_a_letter(inner: str) -> None:
    response = f"<reasoning>Not <answer>A</answer>.</reasoning>\n<answer>{inner}</answer> Done."
    assert read_choice(response, CHOICES) == "B"


@pytest.mark.parametrize(
    "response",
    [
        "",
        "B",
        "The answer is B.",
        "<answer></answer>",
        "<answer>E</answer>",
        "<answer>1</answer>",
        "<answer>AB</answer>",
        "<answer>B or C</answer>",
        "<answer>B, C</answer>",
        "<answer>Option B</answer>",
        "<answer>the mitochondrion</answer>",
        "<answer>B: the nucleus</answer>",
        "<answer>B: maybe</answer>",
        "<answer>B cells</answer>",
        "<answer>B the mitochondrion</answer>",
        "<answer>A: B: the mitochondrion</answer>",
        *[
            f"<answer>{x}</answer>"
            for x in ("**(E)**", "(A)(B)", "**A**, **B**", "$A$ or $B$", "A, B:", "(B): DNA")
        ],
        *[
            f"<answer>{x}</answer>"
            for x in (r"\boxed{A, B}", r"\boxed{}", "**", "()", "(B", "(A) or (B)", "B)(")
        ],
        "<answer>B",
        "B</answer>",
        "<ANSWER>B</ANSWER>",
        "<answer>B</answer> no, <answer>",
        "<answer>B</answer> no, <answer>C or D</answer>",
        "<answer>\u0412</answer>",  # the Cyrillic letter
        "<answer>" * 10_000,
    ],
)
def test_what_is_not_read(response: str) -> None:
    assert read_choice(response, CHOICES) is None


def test_a_choice_may_end_as_a_letter_begins() -> None:
    assert read_choice("<answer>(A) area (m)</answer>", ("area (m)", "area (s)")) == "A"
    assert read_choice("<answer>(A) area (s)</answer>", ("area (m)", "area (s)")) is None


def test_verdicts() -> None:
    right = grade_choice("<answer>B</answer>", CHOICES, "B")
    assert (right.score, right.answer, right.feedback) == (1.0, "B", None)
    wrong = grade_choice("<answer>A</answer>", CHOICES, "B")
    assert (wrong.score, wrong.answer) == (0.0, "A")
    assert wrong.feedback == "The answer A is wrong. The right answer is B: the mitochondrion"
    none = grade_choice("A", CHOICES[:2], "B")
    assert (none.score, none.answer, none.error) == (0.0, None, None)
    assert none.feedback == (
        "No answer could be read: <answer> and </answer> must enclose one letter out of A, B. "
        "The right answer is B: the mitochondrion"
    )


def real(name: str) -> Path:
    folder = os.environ.get("PIPO_DATA_DIR")
    if folder is None:
        pytest.skip("PIPO_DATA_DIR is not set: a folder with SciKnowEval's rows, see docs/tasks/science.md")
    return Path(folder) / name


def answers(task: ScienceTask, form: str) -> set[float]:
    graded = [
        verdict(task, e, form.format(e.answer, e.choices["ABCDEF".index(e.answer)]))
        for e in task.examples("test")
    ]
    return {reward.score for reward in graded}


@pytest.mark.parametrize("domain", SPLITS)
def test_real_rows_of_sdpo(domain: str) -> None:
    read: dict[str, Any] = {}
    for split, size in zip(("train", "test"), SPLITS[domain], strict=True):
        file = real(f"sdpo_form/sciknoweval_{domain}_{split}.jsonl")
        task = make(file, domain)
        examples = read[split] = task.examples("test")
        assert (len(examples), len(task.dropped("test"))) == (size, 0)
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        # The user turn is the published one, to the letter.
        prompts = [task.render(e).messages[1].content for e in examples]
        assert prompts == [row["prompt"].strip() for row in rows]
        assert [e.answer for e in examples] == [row["answer"] for row in rows]
        assert answers(task, "<answer>\n{}\n</answer>") == answers(task, "<answer>{}: {}</answer>") == {1.0}
    shared = {e.question for e in read["train"]} & {e.question for e in read["test"]}
    # One problem of materials science stands in both published splits; it is not trained on.
    assert len(shared) == (1 if domain == "material" else 0)


@pytest.mark.parametrize("domain", SPLITS)
def test_real_rows_of_the_data_set(domain: str) -> None:
    task = make(real(f"sciknoweval_{domain}.jsonl"), domain)
    examples = task.examples("test")
    assert len(examples) == 56
    assert all("is not multiple choice" in d.reason for d in task.dropped("test"))
    assert set(Counter(e.level for e in examples)) == {"L1", "L2", "L3", "L4"}
    assert answers(task, "<answer>{}</answer>") == {1.0}


def test_real_edge_rows() -> None:
    task = make(real("sciknoweval_edge_rows.jsonl"))
    examples = task.examples("test")
    assert [d.reason for d in task.dropped("test")] == ["its domain is Chemistry, not material"]
    assert {len(e.choices) for e in examples} == {2, 4, 5, 6}
    assert not any(character in e.question for e in examples for character in "\t\r\x08\x0c")
    assert answers(task, "<answer>{}</answer>") == {1.0}


def test_no_access_says_what_to_do() -> None:
    file = "https://localhost.invalid/train.json"
    rows = Source(
        path=None, hub_id="lasgroup/SDPO", configs=("c",), split="train", revision="r", data_files=(file,)
    )
    task = ScienceTask(domain="physics", train=rows, test=None, template="science")
    with pytest.raises(
        TaskError, match=rf"cannot load lasgroup/SDPO@r \(c, train\) from {file} .*local file"
    ):
        task.examples("train")
    with pytest.raises(ValueError, match=r"data_files: 'a.csv' must end in one of"):
        Source(path=None, hub_id="h", configs=("c",), split="s", revision="r", data_files=("a.csv",))
