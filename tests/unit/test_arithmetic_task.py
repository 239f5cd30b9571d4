"""The arithmetic task: problems, splits, demonstrations and the grading rule."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pipo.errors import TaskError
from pipo.records.problems import Example
from pipo.tasks.arithmetic import (
    LEVELS,
    ArithmeticTask,
    demonstrate,
    draw,
    evaluate,
    hinted,
    split_of,
)
from tests.verdicts import verdict

MIX = {"1": 1.0, "2": 1.0, "3": 1.0, "4": 2.0, "5": 1.0}
CHARACTERS = set("0123456789+-*=;#()")


def task(**changes: Any) -> ArithmeticTask:
    options: dict[str, Any] = {"seed": 3, "train_problems": 600, "test_problems": 120, "levels": MIX}
    return ArithmeticTask(**(options | changes))


def graded(response: str, answer: str = "132") -> float:
    example = Example(uid="x", question="47+85", answer=answer, level="1")
    return verdict(task(train_problems=1, test_problems=1), example, response).score


def test_same_seed_same_problems_other_seed_others() -> None:
    for split in ("train", "test"):
        assert task().examples(split) == task().examples(split)
        assert task().examples(split) != task(seed=4).examples(split)


def test_problems_are_distinct_and_splits_disjoint_for_any_seeds() -> None:
    train = [example.question for example in task().examples("train")]
    test = [example.question for example in task(seed=4).examples("test")]
    assert len(set(train)) == len(train) == 600
    assert len(set(test)) == len(test) == 120
    assert not set(train) & set(test)
    uids = [example.uid for split in ("train", "test") for example in task().examples(split)]
    assert len(set(uids)) == len(uids)


@pytest.mark.parametrize(("one", "other"), [("47+85", "85+47"), ("37*85", "85*37"), ("345+178", "178+345")])
def test_turned_round_expressions_share_a_split(one: str, other: str) -> None:
    assert split_of(one) == split_of(other)


def test_levels_follow_the_weights_and_a_zero_weight_leaves_one_out() -> None:
    examples = task().examples("train")
    counts = {level: sum(example.level == level for example in examples) for level in LEVELS}
    assert counts == {"1": 100, "2": 100, "3": 100, "4": 200, "5": 100}
    only = task(train_problems=10, levels={1: 0, 3: 2.5}).examples("train")
    assert {example.level for example in only} == {"3"}


def test_rounding_never_loses_a_problem() -> None:
    for count in range(1, 30):
        assert len(task(train_problems=count).examples("train")) == count


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_has_as_many_distinct_expressions_as_it_says(level: str) -> None:
    numbers = range(LEVELS[level].size) if LEVELS[level].size < 10_000 else range(0, LEVELS[level].size, 13)
    expressions = [LEVELS[level].at(number) for number in numbers]
    assert len(set(expressions)) == len(expressions)


def test_answers_are_the_value_of_the_expression() -> None:
    for example in task().examples("train"):
        assert example.answer == str(evaluate(example.question)) == str(eval(example.question))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("47+85", "12;13#132"),
        ("40+48", "8;8#88"),
        ("345-178", "-3;-4;1#167"),
        ("345+178", "13;12;5#523"),
        ("345*7", "35;28+3=31;21+3=24#2415"),
        ("37*85", "35;15+56+3=74;24+7=31#3145"),
        ("37*5+48", "35+8=43;15+4+4=23#233"),
    ],
)
def test_demonstrations(expression: str, expected: str) -> None:
    assert demonstrate(expression) == expected


def test_every_demonstration_has_true_equations_and_grades_one() -> None:
    made = task()
    for example in (*made.examples("train"), *made.examples("test")):
        response = demonstrate(example.question)
        assert set(response) <= CHARACTERS
        reward = verdict(made, example, response)
        assert (reward.score, reward.answer, reward.feedback) == (1.0, example.answer, None)
        working, result = response.split("#")
        columns = working.split(";")
        for column in columns:
            left, equals, right = column.partition("=")
            assert not equals or sum(map(int, left.split("+"))) == int(right)
        values = [int(column.rpartition("=")[2]) for column in columns]
        assert result == str(values[-1]) + "".join(str(value % 10) for value in values[-2::-1])


def test_a_string_that_is_no_expression_is_refused() -> None:
    for text in ("", "47+85=", "4*5*6", "4/2", "\u0664+\u0665"):
        with pytest.raises(ValueError, match="not an arithmetic expression"):
            demonstrate(text)


@pytest.mark.parametrize("response", ["#132", "12;13#132", "nonsense#132", "#12#132", "##132", "12;99#132"])
def test_only_the_text_after_the_last_mark_counts(response: str) -> None:
    assert graded(response) == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "",
        "#",
        "132",
        "#132#",
        "#132#13",
        "#12#13",
        "#0132",
        "# 132",
        "#132 ",
        "#132\n",
        "#+132",
        "#-132",
        "#132.0",
        "#1_32",
        "#132;",
        "#\u0661\u0663\u0662",
        "#\uff11\uff13\uff12",
        "\uff03132",
        "#13\u00b2",
        "#1\x0032",
        "#" * 1000,
    ],
)
def test_nothing_else_counts(response: str) -> None:
    assert graded(response) == 0.0


def test_what_the_grader_read_is_reported() -> None:
    made = task()
    example = Example(uid="x", question="47+85", answer="132", level="1")
    assert verdict(made, example, "12;13").answer is None
    assert verdict(made, example, "#12#13").answer == "13"
    assert verdict(made, example, "#").answer == ""
    assert verdict(made, example, "<think>#12</think>#13").answer == "13"
    assert verdict(made, example, "<think>#12").answer is None


def test_feedback_is_the_correct_working_and_only_for_wrong_responses() -> None:
    made = task()
    example = Example(uid="x", question="47+85", answer="132", level="1")
    feedback = verdict(made, example, "#133").feedback
    assert feedback == "12;13#132"
    assert verdict(made, example, feedback).score == 1.0
    assert verdict(made, example, feedback).feedback is None
    assert hinted("47+85=", feedback) == "(12;13#132)47+85="


def test_prompt_has_both_forms() -> None:
    prompt = task().render(Example(uid="x", question="47+85", answer="132", level="1"))
    assert prompt.text == "47+85="
    assert [(message.role, message.content) for message in prompt.messages] == [("user", "47+85=")]


def test_draw_stays_in_its_split() -> None:
    rng = random.Random(0)
    for level in LEVELS:
        for split in ("train", "test"):
            assert {split_of(draw(rng, level, split)) for _ in range(50)} == {split}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": {"1": -1.0}}, r"levels\.1"),
        ({"levels": {"1": float("nan")}}, r"levels\.1"),
        ({"levels": {"1": float("inf")}}, r"levels\.1"),
        ({"levels": {"1": "much"}}, r"levels\.1"),
        ({"levels": {"6": 1.0}}, r"levels has no level '6'"),
        ({"levels": {}}, "levels needs"),
        ({"levels": {"1": 0}}, "levels needs"),
        ({"levels": [1, 2]}, "levels must map"),
        ({"levels": None}, "levels must map"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"train_problems": 0}, "train_problems"),
        ({"test_problems": True}, "test_problems"),
        ({"train_problems": 8000, "levels": {"4": 1}}, "train_problems and levels ask for 8000 .* level 4"),
        ({"test_problems": 2000, "levels": {"4": 1}}, "test_problems and levels ask for 2000 .* level 4"),
    ],
)
def test_bad_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(**changes)


def test_unknown_split() -> None:
    with pytest.raises(TaskError, match="validation"):
        task().examples("validation")  # type: ignore[arg-type]
