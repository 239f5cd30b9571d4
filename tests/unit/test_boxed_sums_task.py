"""The task of boxed one-digit sums."""

from __future__ import annotations

from typing import Any

import pytest

from pipo.errors import TaskError
from pipo.tasks.boxed_sums import BoxedSumsTask
from tests.verdicts import verdict

OPTIONS: dict[str, Any] = {
    "operands_max": 9,
    "fewshot": 3,
    "working": False,
    "test_share": 0.2,
    "seed": 0,
    "grader_workers": 1,
    "grader_cpu_s": 10.0,
    "grader_wall_s": 300.0,
}


def unordered(question: str) -> frozenset[str]:
    return frozenset(question.split(" + "))


def test_splits_are_disjoint_as_pairs_and_cover_all_but_the_worked_sums() -> None:
    task = BoxedSumsTask(**OPTIONS)
    train, test = task.examples("train"), task.examples("test")
    worked = [m.content for m in task.render(train[0]).messages if m.role == "user"][:-1]
    groups = [
        {unordered(q) for q in part}
        for part in ([e.question for e in train], [e.question for e in test], worked)
    ]
    assert sum(len(g) for g in groups) == len(frozenset.union(*map(frozenset, groups))) == 55
    assert (
        len(train) + len(test) + len({q for w in worked for q in (w, " + ".join(w.split(" + ")[::-1]))})
        == 100
    )
    assert len(groups[1]) == 10  # a fifth of the 52 pairs that are left
    assert len({e.uid for e in [*train, *test]}) == len(train) + len(test)


def test_answers_are_the_sums() -> None:
    task = BoxedSumsTask(**OPTIONS)
    for example in task.examples("train"):
        a, b = map(int, example.question.split(" + "))
        assert example.answer == str(a + b)
        assert verdict(task, example, f"{a} + {b} = \\boxed{{{a + b}}}").score == 1.0
        assert verdict(task, example, f"{a} + {b} = \\boxed{{{a + b + 1}}}").score == 0.0


def test_same_seed_same_problems_other_seed_other_split() -> None:
    first, again = BoxedSumsTask(**OPTIONS), BoxedSumsTask(**OPTIONS)
    other = BoxedSumsTask(**{**OPTIONS, "seed": 1})
    assert first.examples("test") == again.examples("test") != other.examples("test")


def test_prompt_in_both_forms() -> None:
    task = BoxedSumsTask(**{**OPTIONS, "fewshot": 1})
    example = task.examples("test")[0]
    prompt = task.render(example)
    assert [m.role for m in prompt.messages] == ["user", "assistant", "user"]
    worked, solution, question = (m.content for m in prompt.messages)
    assert solution == f"{worked} = \\boxed{{{sum(map(int, worked.split(' + ')))}}}"
    assert question == example.question
    assert prompt.text == f"{solution}\n{question} ="


def test_working_comes_before_the_box() -> None:
    task = BoxedSumsTask(**{**OPTIONS, "fewshot": 1, "working": True})
    worked, solution, _ = (m.content for m in task.render(task.examples("test")[0]).messages)
    total = sum(map(int, worked.split(" + ")))
    assert solution == f"{worked} = {total}, so \\boxed{{{total}}}"


def test_no_worked_sums() -> None:
    task = BoxedSumsTask(**{**OPTIONS, "fewshot": 0})
    example = task.examples("train")[0]
    assert task.render(example).text == f"{example.question} ="
    assert len(task.examples("train")) + len(task.examples("test")) == 100


def test_grade_keeps_order() -> None:
    task = BoxedSumsTask(**OPTIONS)
    examples = list(task.examples("train")[:4])
    rewards = task.grade(
        examples, [f"\\boxed{{{e.answer}}}" if i % 2 else "?" for i, e in enumerate(examples)]
    )
    assert [r.score for r in rewards] == [0.0, 1.0, 0.0, 1.0]
    task.close()


@pytest.mark.parametrize(
    ("option", "value"),
    [("operands_max", 3), ("fewshot", -1), ("fewshot", 28), ("test_share", 0), ("test_share", 1)],
)
def test_bad_options_are_named(option: str, value: float) -> None:
    with pytest.raises(TaskError, match=f"task.{option}"):
        BoxedSumsTask(**{**OPTIONS, option: value})


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_no_split_is_ever_empty(share: float) -> None:
    task = BoxedSumsTask(**{**OPTIONS, "operands_max": 4, "fewshot": 7, "test_share": share})
    assert task.examples("train")
    assert task.examples("test")
