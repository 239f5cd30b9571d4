"""The first look at a GPU, as far as it can be tried without one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.gpu.first_look import answered, page
from tests.gpu.look import Answer, Place, Question, Skipped
from tests.gpu.questions import QUESTIONS


def question(name: str, ask, seconds: float = 1.0) -> Question:
    return Question(name=name, expected="42", seconds=seconds, ask=ask)


def breaks(place: Place) -> Answer:
    raise RuntimeError("first line\nsecond line")


def does_not_apply(place: Place) -> Answer:
    raise Skipped("no such engine")


def test_every_question_has_an_answer_and_the_page_holds_them_all(tmp_path):
    place = Place(device="cuda", folder=tmp_path, deadline=lambda: 60.0)
    questions = [
        question("right", lambda place: Answer(good=True, found="42", values={"n": 42})),
        question("wrong", lambda place: Answer(good=False, found="41 | 43")),
        question("broken", breaks),
        question("foreign", does_not_apply),
        question("long", breaks, seconds=61.0),
    ]
    said: list[str] = []

    answers = list(answered(questions, place, said.append))

    states = {each["name"]: (each["state"], each["found"]) for each in answers}
    assert states == {
        "right": ("PASS", "42"),
        "wrong": ("FAIL", "41 | 43"),
        "broken": ("FAIL", "RuntimeError: first line"),
        "foreign": ("SKIP", "no such engine"),
        "long": ("SKIP", "takes up to 61 s, and 60 s are left"),
    }
    assert len(said) == len(questions)
    text = page(answers, "cpu")
    assert "| FAIL | wrong | 41 / 43 | 42 |" in text
    record = json.loads(text.partition("```json\n")[2].partition("\n```")[0])
    assert record["answers"][0]["values"] == {"n": 42}
    assert "second line" in record["answers"][2]["values"]["trace"]


def test_all_questions_together_have_time():
    """What they may take is more than ten minutes by a little; each is asked only if there is time for it."""
    assert sum(each.seconds for each in QUESTIONS) < 720
    assert len({each.name for each in QUESTIONS}) == len(QUESTIONS)


@pytest.mark.slow
def test_the_first_look_is_rehearsed_on_a_cpu(tmp_path):
    """Every question is asked with the same code; what only a GPU can say is skipped."""
    command = [
        sys.executable,
        "-m",
        "tests.gpu.first_look",
        "--device",
        "cpu",
        "--out",
        f"{tmp_path}/look.md",
    ]
    only = ["--only", *(each.name for each in QUESTIONS if each.name != "environment")]
    done = subprocess.run([*command, *only], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    states = [line.split()[0] for line in done.stdout.splitlines() if line[:4] in ("PASS", "FAIL", "SKIP")]
    assert states.count("PASS") == len(QUESTIONS) - 3
    assert states.count("SKIP") == 2
