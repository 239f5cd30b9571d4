"""Kinds of answers that graders get wrong, and a digit changed in each real reference.

The pairs in ``math_answer_kinds.jsonl`` are made up; each score follows from what the two say, by hand.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipo.graders.math import MathGrader, last_boxed
from pipo.graders.typesetting import repaired, tidy
from pipo.tasks.rows import read_file

FILE = Path(__file__).parents[1] / "data" / "math_answer_kinds.jsonl"
PAIRS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
KINDS = list(dict.fromkeys(pair["kind"] for pair in PAIRS))
DATA_DIR = os.environ.get("PIPO_DATA_DIR")
# What the answers of each set are called.
REAL = {
    "math500": "answer",
    "aime25": "answer",
    "amc23": "answer",
    "minervamath": "answer",
    "olympiadbench": "final_answer",
    "math_train": "solution",
}


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(workers=1, cpu_s=30.0, wall_s=300.0)
    yield grader
    grader.close()


def wrong(grader: MathGrader, pairs: list[tuple[str, str]], score: float) -> list[tuple[str, str]]:
    """The pairs of answer and reference that do not get the score."""
    rewards = grader.grade_batch([(f"\\boxed{{{a}}}", b) for a, b in pairs])
    return [pair for pair, reward in zip(pairs, rewards, strict=True) if reward.score != score]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_scores_what_it_says(grader: MathGrader, kind: str) -> None:
    for score in (0, 1):
        pairs = [(p["answer"], p["reference"]) for p in PAIRS if p["kind"] == kind and p["score"] == score]
        assert wrong(grader, pairs, float(score)) == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        (r"\\\\frac{1}{2}", r"\frac{1}{2}"),
        ("\frac{1}{2}", r"\frac{1}{2}"),  # JSON's \f is a form feed
        ("2\times 3", r"2\times 3"),
        (r"\\{1, 2\\}", r"\{1, 2\}"),
        (r"\\begin{pmatrix}1\\\\2\\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}x\\y\end{pmatrix}", r"\begin{pmatrix}x\\y\end{pmatrix}"),  # rows end here
        (r"\begin{cases}a\\bc\end{cases}", r"\begin{cases}a\\bc\end{cases}"),
        ("1\tto 2", "1\tto 2"),  # a tab that no command begins with
        ("a\nb", "a\nb"),
    ],
)
def test_spoiled_backslashes_are_repaired_and_rows_stay(written: str, meant: str) -> None:
    assert repaired(written) == meant


def test_tidied_answers_stay_as_they_are() -> None:
    changed = [p["answer"] for p in PAIRS if tidy(tidy(p["answer"])) != tidy(p["answer"])]
    assert changed == []


@pytest.mark.skipif(DATA_DIR is None, reason="PIPO_DATA_DIR is not set")
@pytest.mark.parametrize("name", list(REAL))
def test_real_references_are_right_restyled_and_wrong_with_another_digit(
    grader: MathGrader, name: str
) -> None:
    values = [row.fields[REAL[name]] for row in read_file(Path(str(DATA_DIR)) / f"{name}.jsonl")]
    texts = [", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in values]
    if name == "math_train":
        texts = [boxed for text in texts[:500] if (boxed := last_boxed(text))]
    references = list(dict.fromkeys(texts))
    restyled = [
        (f"{{{r.replace('(', chr(92) + 'left(').replace(')', chr(92) + 'right)')}}}\\ ", r)
        for r in references
    ]
    assert wrong(grader, restyled, 1.0) == []
    draw = random.Random(0)
    places = [(r, i) for r in references for i, character in enumerate(r) if character in "0123456789"]
    perturbed = [
        (r[:i] + draw.choice([d for d in "0123456789" if d != r[i]]) + r[i + 1 :], r) for r, i in places
    ]
    assert wrong(grader, perturbed, 0.0) == []
