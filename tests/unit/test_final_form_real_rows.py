r"""Copies of real questions earn nothing, and real references count however they are written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from bench.copy_questions import copies
from pipo.graders.answer_lists import same_text
from pipo.graders.answer_text import number
from pipo.graders.final_form import unfinished
from pipo.graders.math import MathGrader, last_boxed
from pipo.graders.typesetting import tidy

# Problems of each file; what its question and answer are called. The first five are the benchmark.
SETS = {
    "math500": (500, "problem", "answer"),
    "aime25": (30, "problem", "answer"),
    "amc23": (40, "question", "answer"),
    "minervamath": (272, "question", "answer"),
    "olympiadbench": (70, "question", "final_answer"),
    "math_train": (500, "problem", "solution"),
}


def problems(name: str) -> list[tuple[str, str]]:
    """Question and reference of each row."""
    folder = os.environ.get("PIPO_DATA_DIR")
    if folder is None:
        pytest.skip(f"PIPO_DATA_DIR is not set: a folder with {name}.jsonl")
    rows = [json.loads(line) for line in (Path(folder) / f"{name}.jsonl").open(encoding="utf-8")]
    count, question, answer = SETS[name]
    assert len(rows) == count
    found: list[tuple[str, str]] = []
    for row in rows:
        value = last_boxed(row[answer]) if answer == "solution" else row[answer]
        value = ", ".join(value) if isinstance(value, list) else value
        found.append((row[question], str(int(value) if isinstance(value, float) else value).strip()))
    return found


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(workers=2, cpu_s=30.0, wall_s=300.0)
    yield grader
    grader.close()


@pytest.mark.parametrize("name", ["math500", "math_train"])
def test_copying_the_question_earns_nothing(name: str, grader: MathGrader) -> None:
    """Below 0.4 %: where a copy is right, the question writes its answer down as the reference does."""
    tried = [(c, r, q) for q, r in problems(name) for c in copies(q) if not same_text(tidy(c), tidy(r))]
    final = [case for case in tried if unfinished(*case) is None]
    assert len(tried) > 1500
    pairs = [(f"\\boxed{{{copy}}}", reference) for copy, reference, _ in final]
    rewards = grader.grade_batch(pairs, [question for *_, question in final])
    right = {case[2]: case[:2] for case, reward in zip(final, rewards, strict=True) if reward.score}
    assert len(right) <= 1, right


def decimal(text: str) -> str:
    """A fraction as an exact decimal, a decimal as a fraction; anything else as it is."""
    found = number(tidy(text))
    if found is None or found.percent or found.value.denominator == 1 or "%" in text:
        return text
    if "." in text:
        return f"\\frac{{{found.value.numerator}}}{{{found.value.denominator}}}"
    places = next((n for n in range(12) if (found.value * 10**n).denominator == 1), None)
    return text if places is None else f"{float(found.value):.{places}f}"


def grouped(text: str) -> str:
    """A plain whole number with commas between its thousands."""
    return f"{int(text):,}" if re.fullmatch(r"\d{4,12}", text) else text


def turned(text: str) -> str:
    """A sum of two plain terms the other way round."""
    match = re.fullmatch(r"([\w\\{} ]+) ([+-]) ([\w\\{} ]+)", text)
    if match is None or re.search(r"\\(?:frac|text)", text):
        return text
    return f"{'-' if match[2] == '-' else ''}{match[3]} + {match[1]}"


def rationalised(text: str) -> str:
    r"""``\frac{\sqrt{a}}{b}`` with the root below the bar, where it is that alone."""
    match = re.fullmatch(r"(-?)\\d?frac\{\\sqrt\{(\d+)\}\}\{(\d+)\}", text)
    if match is None:
        return text
    value = Fraction(int(match[2]), int(match[3]))
    return f"{match[1]}\\frac{{{value.numerator}}}{{{value.denominator}\\sqrt{{{match[2]}}}}}"


def sized(text: str) -> str:
    """Round brackets that grow."""
    if text.count("(") != text.count(")") or "\\left" in text:
        return text
    return text.replace("(", "\\left(").replace(")", "\\right)")


def named(text: str) -> str:
    """A value with a name before it; words, lists, units and numbers of another base stay."""
    other = re.search(r"[=,<>_]|\\(?:text|in\b|le|cup|mbox)|[A-Za-z]$", text)
    return text if other else f"x = {text}"


RESTYLED: dict[str, Callable[[str], str]] = {
    "as it stands": lambda text: text,
    "large fractions": lambda text: re.sub(r"\\[dt]?frac", r"\\dfrac", text),
    "small fractions": lambda text: re.sub(r"\\[dt]?frac", r"\\tfrac", text),
    "sized brackets": sized,
    "no sized brackets": lambda text: re.sub(r"\\(?:left|right)(?![a-zA-Z.])", "", text),
    "wide": lambda text: re.sub(r"(?<=[\d)}]) ?([+=-]) ?(?=[\d(\\])", r" \1 ", text),
    "in dollars": lambda text: text if "$" in text else f"${text}$",
    "with a full stop": lambda text: text if text.endswith((".", "$")) else f"{text}.",
    "displayed": lambda text: f"\\displaystyle {text}",
    "a unit": lambda text: f"{text} \\text{{ units}}" if re.fullmatch(r"\d+", text) else text,
    "decimal or fraction": decimal,
    "thousands": grouped,
    "named": named,
    "turned": turned,
    "rationalised": rationalised,
}


def is_asked_about(answer: str, question: str) -> bool:
    """Whether a question asks to write this otherwise: ``3/20`` as a decimal, or without a root below."""
    asks_for_no_root = re.search("rationalize|rational denominator", question, re.IGNORECASE)
    return answer in question or bool(asks_for_no_root and "sqrt" in answer)


@pytest.mark.parametrize("name", list(SETS))
def test_references_count_however_they_are_written(name: str, grader: MathGrader) -> None:
    tried = dict.fromkeys((style(r), r, q) for q, r in problems(name) for style in RESTYLED.values())
    tried = [(a, r, q) for a, r, q in tried if same_text(tidy(a), tidy(r)) or not is_asked_about(a, q)]
    pairs = [(f"\\boxed{{{answer}}}", reference) for answer, reference, _ in tried]
    rewards = grader.grade_batch(pairs, [question for *_, question in tried])
    refused = [case[:2] for case, reward in zip(tried, rewards, strict=True) if not reward.score]
    assert refused == []
