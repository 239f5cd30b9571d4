"""The grader of boxed answers: what it reads and what it accepts."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipo.errors import TaskError
from pipo.graders.math import MAX_ANSWER_CHARS, MathGrader, last_boxed, quick_verdict
from pipo.records.problems import Reward


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(workers=1, cpu_s=30.0, wall_s=300.0)
    yield grader
    grader.close()


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{5}.", "5"),
        (r"first \boxed{4}, no: \boxed{ 5 }", "5"),
        (r"\boxed{\frac{1}{\sqrt{2}}} done {really}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed {8}", "8"),
        (r"\boxed{3} and then \boxed{4", "3"),  # the last one is cut off, so it is no box
        (r"\boxed{4 and \frac{1}{2}", None),
        (r"open { brace \boxed{6}", "6"),
        (r"closed } brace \boxed{6}}}", "6"),
        (r"\boxed{\left\{1,2\right.}", r"\left\{1,2\right."),  # escaped braces do not count
        (r"\boxed{1}\boxed{}", ""),
        ("\\boxed{1\n2}", "1\n2"),
        (r"\fbox{5} boxed{5} \boxed 5", None),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_last_boxed(response: str, answer: str | None) -> None:
    assert last_boxed(response) == answer


@pytest.mark.parametrize(
    ("answer", "reference", "verdict"),
    [
        ("1,000", "1000", True),
        ("1{,}000", "1000", True),
        (r"1,\!234,\!567.50", "1234567.5", True),
        ("5.", "5", True),
        ("5.0", "5", True),
        (".5", "0.50", True),
        ("-0", "0", True),
        ("+7", "7", True),
        ("007", "7", True),
        ("$5$", "5", True),
        (r"\$18", "18", True),
        ("-$18.00", "-18", True),
        (r"20\%", "20", True),
        ("5", "6", False),
        ("0.3333", "0.333", False),  # numbers as written, not rounded
        ("9" * 400, "9" * 399 + "8", False),
        ("x+1", "x+1", True),
        ("1,2", "12", False),  # a pair
        ("12,34", "1234", False),  # not a group of three digits
        ("1 2", "12", None),
        ("1/2", "0.5", True),
        ("1e3", "1000", True),
        ("٥", "5", None),  # noqa: RUF001 - another script's digit is math-verify's business
        ("5 apples", "5", True),
    ],
)
def test_quick_verdict(answer: str, reference: str, verdict: bool | None) -> None:
    assert quick_verdict(answer, reference) is verdict


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("1/2", "0.5", 1.0),
        (r"\frac12", "0.5", 1.0),
        (r"1\frac{1}{2}", "1.5", 1.0),
        (r"5\text{ dollars}", "5", 1.0),
        (r"90^\circ", "90", 1.0),
        ("x=5", "5", 1.0),
        ("1+x^2", "x^2+1", 1.0),
        (r"\sqrt{4}", "2", 1.0),
        (r"\{2,1\}", r"\{1,2\}", 1.0),
        (r"\text{Monday}", "Monday", 1.0),
        ("(2,1)", "(1,2)", 0.0),
        ("1,2", "12", 0.0),
        ("5 or 6", "6", 0.0),
        (r"\text{Tuesday}", "Monday", 0.0),
        ("4:00", "3:00", 0.0),
        (r"\frac{}{}", "2", 0.0),
        (r"2\\3", "2", 0.0),
        (r"\frac{1}{0}", "0", 0.0),
    ],
)
def test_math_verify_verdict(grader: MathGrader, answer: str, reference: str, score: float) -> None:
    assert grader.grade(f"\\boxed{{{answer}}}", reference) == Reward(score=score, answer=answer)


def test_same_answers_whichever_comes_first(grader: MathGrader) -> None:
    same = [("1/2", "0.5"), (r"\frac{2}{4}", r"\frac12"), (" 5", "5.0"), ("x=5", "5"), ("", " "), ("?", "?")]
    different = [("1/3", "0.5"), ("5", "6"), ("", "5"), (r"\text{yes}", r"\text{no}")]
    for pairs in (same + different, [(b, a) for a, b in same + different]):
        assert grader.same(pairs) == [True] * len(same) + [False] * len(different)


def test_no_answer_scores_zero_without_error(grader: MathGrader) -> None:
    for response in ("no box: 5", r"\boxed{}", r"\boxed{  }", r"\boxed{5"):
        assert grader.grade(response, "5") == Reward(score=0.0)


def test_overlong_answer_is_not_looked_at(grader: MathGrader) -> None:
    reward = grader.grade("\\boxed{" + "1" * 10_000_000 + "}", "1")
    assert reward.score == 0.0
    assert reward.error is not None
    assert str(MAX_ANSWER_CHARS) in reward.error
    assert reward.answer is not None
    assert len(reward.answer) == 100


def test_unreadable_reference_is_an_error_not_a_wrong_answer(grader: MathGrader) -> None:
    reward = grader.grade(r"\boxed{x}", " ")
    assert reward == Reward(score=0.0, answer="x", error="the reference cannot be parsed: ''")


def test_huge_power_costs_at_most_the_time_limit() -> None:
    grader = MathGrader(workers=2, cpu_s=1.0, wall_s=300.0)
    hard = [(r"\boxed{10^{10^{10}}}", "5"), (r"\boxed{9^{9^{9^9}}}", "5")]
    easy = [(f"\\boxed{{{i}/7}}", f"\\frac{{{i}}}{{7}}") for i in range(1, 6)]
    rewards = grader.grade_batch([easy[0], *hard, *easy[1:], (r"\boxed{3}", "3")])
    grader.close()
    assert [r.score for r in rewards] == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert {r.error for r in rewards[1:3]} <= {
        "took more than 1 s of processor time",
        None,
    }  # sympy may learn to say no
    assert [r.error for r in rewards[:1] + rewards[3:]] == [None] * 6


def test_works_outside_the_main_thread(grader: MathGrader) -> None:
    rewards: list[Reward] = []
    threads = [
        threading.Thread(target=lambda i=i: rewards.append(grader.grade(f"\\boxed{{{i}/8}}", str(i / 8))))
        for i in range(1, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [r.score for r in rewards] == [1.0] * 4


def test_plain_numbers_start_no_worker(tmp_path: Path) -> None:
    grader = MathGrader(workers=1, cpu_s=5.0, wall_s=60.0, program=tmp_path / "does_not_exist.py")
    rewards = grader.grade_batch([(f"\\boxed{{{i}}}", "3") for i in range(5)])
    assert [r.score for r in rewards] == [0.0, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("workers", "cpu_s", "wall_s"),
    [
        (0, 1.0, 9.0),
        (1, 0.0, 9.0),
        (1, -1.0, 9.0),
        (1, math.inf, math.inf),
        (1, 1.0, 1.0),
        (1, 1.0, math.nan),
    ],
)
def test_bad_options(workers: int, cpu_s: float, wall_s: float) -> None:
    with pytest.raises(TaskError, match="grader"):
        MathGrader(workers=workers, cpu_s=cpu_s, wall_s=wall_s)
