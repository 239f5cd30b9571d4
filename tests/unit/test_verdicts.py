"""The one way to a verdict: what overrides it counts, what looks like it is refused, and its contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipo.errors import TaskError
from pipo.records.problems import Example, Reward
from pipo.tasks.arithmetic import ArithmeticTask
from pipo.tasks.math import MathTask
from pipo.tasks.mbpp import MbppTask
from pipo.tasks.verdicts import one_by_one, verdicts_of
from tests import toy

SUM = Example(uid="x/1", question="1+1", answer="2")


class Returns(toy.ToyTask):
    def __init__(self, returned: Any) -> None:
        self.returned = returned

    def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        return self.returned


@pytest.mark.parametrize("base", [ArithmeticTask, MathTask, MbppTask, toy.ToyTask])
@pytest.mark.parametrize("name", ["score", "score_batch"])
def test_a_method_that_nobody_would_call_is_refused_with_the_class(base: type, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^Own\.{name} would never be called: .* grade\(examples, resp"):
        type("Own", (base,), {name: lambda *_: None})


def test_one_that_comes_from_beside_is_refused_too() -> None:
    class Beside:
        def score(self, example: Example, response: str) -> Reward:
            return Reward(score=1.0)

    with pytest.raises(TypeError, match=r"^Own\.score would never be called"):
        type("Own", (Beside, toy.ToyTask), {})


def test_the_verdicts_come_back_in_order() -> None:
    rewards = [Reward(score=0.5), Reward(score=1.0)]
    assert verdicts_of(Returns(rewards), [SUM, SUM], ["a", "b"]) == tuple(rewards)
    assert verdicts_of(Returns([]), [], []) == ()


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([Reward(score=1.0)], "must return one Reward per response, got 1 of 2"),
        ([Reward(score=1.0)] * 3, "must return one Reward per response, got 3 of 2"),
        ([Reward(score=1.0), 1.0], "must return a list of Reward, got float 1.0 for response 1"),
        ([None, Reward(score=1.0)], "must return a list of Reward, got NoneType None for response 0"),
        (None, "must return a list of Reward, got NoneType"),
        ((Reward(score=1.0) for _ in range(2)), "must return a list of Reward, got generator"),
    ],
)
def test_what_is_no_list_of_verdicts_is_one_line_with_the_class(returned: Any, said: str) -> None:
    with pytest.raises(TaskError) as error:
        verdicts_of(Returns(returned), [SUM, SUM], ["a", "b"])
    assert str(error.value) == f"Returns.grade {said}"


def first_word(broken: Callable[[], Exception]) -> Callable[[Example, str], Reward]:
    def grade(example: Example, response: str) -> Reward:
        if "odd" in response:
            raise broken()
        return Reward(score=1.0, answer=response.split()[0])

    return grade


def test_an_odd_response_costs_itself(caplog: pytest.LogCaptureFixture) -> None:
    grade = first_word(lambda: ValueError("no number"))
    got = one_by_one(grade, [SUM] * 4, ["a b", "odd", "c", "odd"])
    lost = Reward(score=0.0, error="ValueError: no number")
    assert got == [Reward(score=1.0, answer="a"), lost, Reward(score=1.0, answer="c"), lost]
    assert caplog.messages[0] == (
        "2 of 4 responses broke their grader and score 0 (the first: ValueError: no number)"
    )


def test_alone_it_costs_itself_too() -> None:
    (got,) = one_by_one(first_word(lambda: RecursionError("too deep")), [SUM], ["odd"])
    assert got == Reward(score=0.0, error="RecursionError: too deep")


def test_a_grader_that_breaks_on_every_response_is_at_fault_itself() -> None:
    with pytest.raises(AttributeError, match="no such thing"):
        one_by_one(first_word(lambda: AttributeError("no such thing")), [SUM] * 3, ["odd"] * 3)


def test_what_is_no_responses_fault_is_not_taken_for_one() -> None:
    with pytest.raises(TaskError, match="no data"):
        one_by_one(first_word(lambda: TaskError("no data")), [SUM] * 2, ["a", "odd"])


def test_each_response_needs_its_problem() -> None:
    with pytest.raises(ValueError, match="zip"):
        one_by_one(first_word(lambda: ValueError("")), [SUM], ["a", "b"])


def test_nothing_to_grade_is_nothing() -> None:
    assert one_by_one(first_word(lambda: ValueError("")), [], []) == []
