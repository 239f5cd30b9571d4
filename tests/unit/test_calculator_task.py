"""The calculator: problems, the grammar of calls, what is said to a turn, and grading."""

from __future__ import annotations

from typing import Any

import pytest

from pipo.records.problems import Example, Message, Reply
from pipo.tasks.calculator import SHAPES, CalculatorTask, CallError, calculate, solve, split_of
from tests.verdicts import verdict


def task(**changes: Any) -> CalculatorTask:
    options: dict[str, Any] = {"seed": 3, "train_problems": 300, "test_problems": 60, "max_turns": 5}
    options |= {"levels": {1: 0.3, 2: 0.4, 3: 0.3}}
    return CalculatorTask(**(options | changes))


def said(turn: str) -> Reply:
    (example, *_) = task(test_problems=1).examples("test")
    return task(test_problems=1).environment(example).step((Message(role="assistant", content=turn),))


def test_problems_are_distinct_right_and_apart_from_held_out_ones_of_any_seed() -> None:
    train, test = task().examples("train"), task(seed=4).examples("test")
    assert task().examples("train") == train != task(seed=4).examples("train")
    questions = [{example.question for example in examples} for examples in (train, test)]
    assert [len(each) for each in questions] == [300, 60]
    assert not questions[0] & questions[1]
    for example in [*train, *test]:
        assert int(example.answer) == eval(example.question)  # Python's own arithmetic
        assert SHAPES.keys() >= {int(example.level)}


def test_a_problem_turned_round_shares_its_split() -> None:
    assert len({split_of(each) for each in ("347*856+1234", "1234+347*856", "1234+856*347")}) == 1


def test_a_level_with_weight_0_is_left_out_and_all_of_them_are_refused() -> None:
    assert {example.level for example in task(levels={1: 0, 2: 1.0, 3: 0}).examples("train")} == {"2"}
    with pytest.raises(ValueError, match="greater than zero"):
        task(levels={1: 0.0})


@pytest.mark.parametrize(
    ("call", "result"),
    [("12*34", 408), ("5-12", -7), ("-7+3", -4), ("3--4", 7), (" 12 * 34\n", 408), ("007*1", 7),
     ("999999999999*999999999999", 999999999998000000000001)],
)  # fmt: skip
def test_one_operation_on_two_whole_numbers(call: str, result: int) -> None:
    assert calculate(call) == result


@pytest.mark.parametrize(
    "call",
    ["", "12", "12*", "1+2+3", "12*34=", "1 2*3", "12/4", "2**3", "1.5*2", "a*b", "(1)+2", "+1+2", "1e3*2",
     "١٢*٣", "__import__('os')", "1+2;3"],
)  # fmt: skip
def test_anything_else_is_no_call(call: str) -> None:
    with pytest.raises(CallError, match="one operation on two numbers"):
        calculate(call)


def test_long_numbers_are_refused() -> None:
    with pytest.raises(CallError, match="12 digits at most"):
        calculate("1" * 13 + "*2")
    with pytest.raises(CallError, match="12 digits at most"):
        calculate("2-" + "9" * 100_000)  # more than Python itself would turn into a number


@pytest.mark.parametrize(
    ("turn", "answer", "calls", "errors"),
    [
        ("[12*34]", "\n408\n", 1, 0),
        ("first the product: [12*34] ", "\n408\n", 1, 0),
        ("[1+1][12*34]", "\n408\n", 1, 0),  # the last one, at the end
        ("[12*34*56]", "\nerror: one operation on two numbers\n", 1, 1),
        ("[]", "\nerror: one operation on two numbers\n", 1, 1),
        ("[1234567890123*2]", "\nerror: numbers of 12 digits at most\n", 1, 1),
        ("#408", None, 0, 0),
        ("[12*34] is #408", None, 0, 0),  # goes on behind the bracket
        ("[12*34", None, 0, 0),
        ("12*34]", None, 0, 0),
        ("", None, 0, 0),
    ],
)
def test_what_is_said_to_a_turn(turn: str, answer: str | None, calls: int, errors: int) -> None:
    messages = () if answer is None else (Message(role="tool", content=answer),)
    assert said(turn) == Reply(messages=messages, tool_calls=calls, tool_errors=errors)


@pytest.mark.parametrize(
    ("last", "score"),
    [("#298266", 1.0), ("so #298266 ", 1.0), ("#1#298266", 1.0), ("298266", 0.0), ("#0298266", 0.0),
     ("#298267", 0.0), ("#", 0.0), ("[297032+1234]", 0.0), ("", 0.0)],
)  # fmt: skip
def test_what_follows_the_last_mark_is_the_answer(last: str, score: float) -> None:
    example = Example(uid="x", question="347*856+1234", answer="298266")
    assert verdict(task(train_problems=1, test_problems=1), example, last).score == score


@pytest.mark.parametrize(
    ("expression", "value"),
    [("347*856", 297032), ("347*856-9999", 287033), ("1234+347*856", 298266), ("347*85+402*19", 37133)],
)
def test_products_come_first(expression: str, value: int) -> None:
    assert solve(expression) == value


def test_an_episode_by_hand() -> None:
    """347 * 856 = 297,032, and 1,234 more are 298,266; the second call is first one that is refused."""
    problem = Example(uid="x", question="1234+347*856", answer="298266")
    calculator, transcript = task(train_problems=1, test_problems=1).environment(problem), ()
    for turn, expected in [
        ("[347*856]", "\n297032\n"),
        ("[1234+347*856]", "\nerror: one operation on two numbers\n"),
        ("[1234+297032]", "\n298266\n"),
    ]:
        transcript = (*transcript, Message(role="assistant", content=turn))
        reply = calculator.step(transcript)
        assert reply.messages == (Message(role="tool", content=expected),)
        assert (reply.tool_calls, reply.reward) == (1, None)
        transcript = (*transcript, *reply.messages)
    transcript = (*transcript, Message(role="assistant", content="#298266"))
    assert calculator.step(transcript) == Reply()
    (graded,) = task(train_problems=1, test_problems=1).grade_transcripts([problem], [transcript])
    assert (graded.score, graded.answer) == (1.0, "298266")
