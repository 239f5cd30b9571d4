"""Arithmetic with a calculator, over several turns: the task behind ``task=calculator``, and the one to copy.

The numbers are too large to be reckoned in the head, and the calculator knows one operation on two numbers,
so most problems take several calls, of which later ones need what earlier ones gave. An episode::

    policy       [347*856]             a turn that ends in brackets is a call
    environment  297032
    policy       [297032+1234]
    environment  298266
    policy       #298266               any other turn ends the episode; what follows # is the answer

The problem was ``347*856+1234=``. A call that cannot be read is answered, too, with what is wrong about it.
Problems are made from a seed, so nothing has to be downloaded. The levels are

===== ================================== ==================== =====
level expression                         example              calls
===== ================================== ==================== =====
``1`` product of three-digit numbers     ``347*856``          1
``2`` a product, and a four-digit number ``1234+347*856``     2
``3`` sum of two products                ``347*85+402*19``    3
===== ================================== ==================== =====
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from pipo.graders.thought import answer_part
from pipo.records.options import Count, NotNegative
from pipo.records.problems import Example, Message, Prompt, Reply, Reward, Split, Transcript
from pipo.tasks.base import Task
from pipo.tasks.environment import Environment
from pipo.tasks.rows import Row, UnusableRow
from pipo.tasks.verdicts import one_by_one

MARK = "#"
"""Comes before the answer; everything after its last occurrence is read as such."""

TEST_SHARE = 5
"""One problem in so many is held out."""

_CALL = re.compile(r"\[([^\[\]]*)\]\s*\Z")
_OPERATION = re.compile(r"\s*(-?\d+)\s*([+\-*])\s*(-?\d+)\s*", re.ASCII)
_DIGITS = 12  # of a number in a call, at most

Level = Literal[1, 2, 3]
Problems = Annotated[int, Field(ge=1, le=100_000)]
"""A number of problems; there are more of every level."""

INSTRUCTION = (
    "Work out {}. You have a calculator that knows one operation, +, - or *, on two whole numbers. To use "
    "it, end your message with a call in brackets, such as [12*34], and you are told the result. When you "
    "know the answer, write it after #, such as #408."
)


class CallError(Exception):
    """A call that the calculator cannot carry out; the message says why, to the policy."""


def calculate(call: str) -> int:
    """The result of ``a+b``, ``a-b`` or ``a*b``.

    Raises:
        CallError: the call is anything else, or a number in it is too long.
    """
    found = _OPERATION.fullmatch(call)
    if found is None:
        raise CallError("one operation on two numbers")
    a, operator, b = found.groups()
    if max(len(a), len(b)) > _DIGITS:
        raise CallError(f"numbers of {_DIGITS} digits at most")
    return {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator](int(a), int(b))


class Calculator(Environment):
    """Answers calls; a turn without one ends the episode, and the task grades it."""

    def step(self, transcript: Transcript) -> Reply:
        """The result of the call in the newest turn, or what is wrong with it."""
        call = _CALL.search(answer_part(transcript[-1].content))
        if call is None:
            return Reply()
        try:
            said, errors = str(calculate(call[1])), 0
        except CallError as error:
            said, errors = f"error: {error}", 1
        message = Message(role="tool", content=f"\n{said}\n")
        return Reply(messages=(message,), tool_calls=1, tool_errors=errors)


SHAPES: Mapping[int, tuple[str, ...]] = {
    1: ("000*000",),
    2: ("000*000+0000", "000*000-0000", "0000+000*000"),
    3: ("000*00+000*00",),
}
"""How the expressions of a level look when every digit is a 0."""


def split_of(expression: str) -> Split:
    """The split of an expression, whatever the seed: the same for every order of the same numbers."""
    key = " ".join(sorted(re.findall(r"\d+", expression)))
    return "test" if zlib.crc32(key.encode()) % TEST_SHARE == 0 else "train"


def draw(rng: random.Random, level: int, split: Split) -> str:
    """An expression of a level and a split."""

    def number(zeros: re.Match[str]) -> str:
        return str(rng.randrange(10 ** (len(zeros[0]) - 1), 10 ** len(zeros[0])))

    while True:
        expression = re.sub("0+", number, rng.choice(SHAPES[level]))
        if split_of(expression) == split:
            return expression


def next_call(expression: str) -> str | None:
    """What of an expression to work out first; None for a number."""
    found = re.search(r"\d+\*\d+", expression) or re.search(r"\d+[+\-]\d+", expression)
    return None if found is None else found[0]


def solve(expression: str) -> int:
    """The value of an expression, call by call."""
    while (call := next_call(expression)) is not None:
        expression = expression.replace(call, str(calculate(call)), 1)
    return int(expression)


class CalculatorTask(Task[Example]):
    """Problems for a calculator, made from a seed. See the module's table of levels.

    Grading: the last turn's text after its last ``#`` must be the value's decimal digits, spaces around them
    apart. So a policy may also guess; of these problems it will guess few.

    Args:
        seed: chooses the problems; the splits themselves do not depend on it.
        train_problems: number of distinct training problems.
        test_problems: number of distinct held-out problems.
        levels: weight of each level in both splits.
        max_turns: how often the policy may speak; the third level needs 4.
    """

    name = "calculator"
    version = "1"
    template = "calculator/1"
    votes = True

    def __init__(
        self,
        *,
        seed: int,
        train_problems: Problems,
        test_problems: Problems,
        levels: Mapping[Level, NotNegative],
        max_turns: Count,
    ) -> None:
        self.max_turns = max_turns
        self._examples: dict[Split, tuple[Example, ...]] = {
            "train": _make("train", train_problems, levels, seed),
            "test": _make("test", test_problems, levels, seed),
        }

    def examples(self, split: Split) -> Sequence[Example]:
        """All problems of a split, levels mixed."""
        return self._examples[split]

    def to_grade(self, number: int, row: Row) -> Example:
        """An expression of one of the levels in ``question``; its value need not be given."""
        expression = row.text("question").strip().removesuffix("=")
        shape = re.sub(r"\d", "0", expression, flags=re.ASCII)
        level = next((level for level, shapes in SHAPES.items() if shape in shapes), None)
        if level is None:
            raise UnusableRow(f"{row.place}: {expression[:40]!r} is no expression of the levels 1 to 3")
        return _example(f"calculator/{number}", expression, level)

    def render(self, example: Example) -> Prompt:
        """``347*856=`` for a model that continues texts; in words for one that follows instructions."""
        asked = Message(role="user", content=INSTRUCTION.format(example.question))
        return Prompt(messages=(asked,), text=f"{example.question}=")

    def environment(self, example: Example) -> Environment:
        """A calculator. It knows nothing of the problem."""
        return Calculator()

    def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        """1 if the text after the last ``#`` of the last turn is the value, else 0."""
        return one_by_one(_verdict, examples, responses)


def _verdict(example: Example, response: str) -> Reward:
    _, mark, tail = answer_part(response).rpartition(MARK)
    answer = tail.strip() if mark else None
    return Reward(score=float(answer == example.answer), answer=answer)


def _make(split: Split, count: int, levels: Mapping[Level, float], seed: int) -> tuple[Example, ...]:
    # A string seed is hashed by its bytes: the same on every machine and in every process.
    rng = random.Random(f"calculator/{split}/{seed}")
    problems: dict[str, int] = {}
    while len(problems) < count:
        level = rng.choices([*levels], [*levels.values()])[0]
        problems[draw(rng, level, split)] = level
    return tuple(
        _example(f"calculator/{split}/{number}", expression, level)
        for number, (expression, level) in enumerate(problems.items())
    )


def _example(uid: str, expression: str, level: int) -> Example:
    return Example(uid=uid, question=expression, answer=str(solve(expression)), level=str(level))
