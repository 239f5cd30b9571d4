"""Integer arithmetic with short working, in five levels: the task behind ``task=arithmetic``.

It is small enough for a model of a million parameters that reads characters, and it is
made from a seed, so nothing has to be downloaded. The levels are

===== =========================================== ============ =============================
level expression                                  example      working and result
===== =========================================== ============ =============================
``1`` sum of two-digit numbers                    ``47+85=``   ``12;13#132``
``2`` sum or difference of three-digit numbers    ``345-178=`` ``-3;-4;1#167``
``3`` three-digit times one-digit                 ``345*7=``   ``35;28+3=31;21+3=24#2415``
``4`` product of two two-digit numbers            ``37*85=``   ``35;15+56+3=74;24+7=31#3145``
``5`` two steps: a product, then a sum            ``37*5+48=`` ``35+8=43;15+4+4=23#233``
===== =========================================== ============ =============================

A working goes column by column from the units, each column with what the one before carried over; the
result is the last column, then the last digits of the others backwards. A response may leave the working
out (``#3145``): only the result is graded, so a policy can learn that working pays.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipo.errors import TaskError
from pipo.graders.thought import answer_part
from pipo.records.problems import Example, Message, Prompt, Reward, Split
from pipo.tasks.base import Task
from pipo.tasks.rows import Row, UnusableRow
from pipo.tasks.verdicts import one_by_one

MARK = "#"
"""Comes before the result; everything after its last occurrence is read as the answer."""

TEST_SHARE = 5
"""One expression in so many is held out."""

_EXPRESSION = re.compile(r"(\d+)([+\-*])(\d+)(?:\+(\d+))?", re.ASCII)


def _level_1(index: int) -> str:
    first, second = divmod(index, 90)
    return f"{10 + first}+{10 + second}"


def _level_2(index: int) -> str:
    pair, is_sum = divmod(index, 2)
    first, second = divmod(pair, 350)
    a, b = 100 + first, 100 + second
    # A difference is drawn by its result, so it is met once, positive, and has three digits.
    return f"{a}+{b}" if is_sum else f"{a + b}-{b}"


def _level_3(index: int) -> str:
    first, second = divmod(index, 8)
    return f"{100 + first}*{2 + second}"


def _level_4(index: int) -> str:
    first, second = divmod(index, 89)
    return f"{11 + first}*{11 + second}"


def _level_5(index: int) -> str:
    pair, third = divmod(index, 90)
    first, second = divmod(pair, 8)
    return f"{11 + first}*{2 + second}+{10 + third}"


@dataclass(frozen=True)
class Level:
    """All expressions of one level, numbered."""

    size: int
    """How many distinct expressions there are, both splits together."""
    at: Callable[[int], str]
    """Number in ``range(size)`` -> its expression; no two numbers give the same one."""


LEVELS: Mapping[str, Level] = {
    "1": Level(90 * 90, _level_1),
    "2": Level(2 * 450 * 350, _level_2),
    "3": Level(900 * 8, _level_3),
    "4": Level(89 * 89, _level_4),
    "5": Level(89 * 8 * 90, _level_5),
}


# How an expression looks when every digit is a 0, and its level.
_SHAPES = {"00+00": "1", "000+000": "2", "000-000": "2", "000*0": "3", "00*00": "4", "00*0+00": "5"}


def _parse(expression: str) -> tuple[int, str, int, int | None]:
    match = _EXPRESSION.fullmatch(expression)
    if match is None:
        raise ValueError(f"not an arithmetic expression: {expression!r}")
    a, operator, b, c = match.groups()
    return int(a), operator, int(b), None if c is None else int(c)


def evaluate(expression: str) -> int:
    """The value of ``a+b``, ``a-b``, ``a*b`` or ``a*b+c``."""
    a, operator, b, c = _parse(expression)
    value = a + b if operator == "+" else a - b if operator == "-" else a * b
    return value + (c or 0)


def demonstrate(expression: str) -> str:
    """The correct working and result of an expression, as a model should write them."""
    a, operator, b, c = _parse(expression)
    if c is not None:
        working = _product_and_sum(a, b, c)
    elif operator == "*":
        working = _long_product(a, b) if b > 9 else _short_product(a, b)
    else:
        working = _sum(a, b if operator == "+" else -b)
    return f"{working}{MARK}{evaluate(expression)}"


def _sum(a: int, b: int) -> str:
    """Two numbers of as many digits, the second perhaps to be taken away: a number for each column."""
    sign, columns, carry = (1 if b > 0 else -1), [], 0
    for one, other in zip(reversed(str(a)), reversed(str(abs(b))), strict=True):
        column = int(one) + sign * int(other) + carry
        columns.append(str(column))
        carry = column // 10  # rounds down, so a negative column borrows 1
    return ";".join(columns)


def _short_product(a: int, b: int) -> str:
    """A three-digit times a one-digit number: units, tens, hundreds."""
    units = a % 10 * b
    tens, hundreds = a // 10 % 10 * b, a // 100 * b
    middle = tens + units // 10
    return f"{units};{tens}+{units // 10}={middle};{hundreds}+{middle // 10}={hundreds + middle // 10}"


def _long_product(a: int, b: int) -> str:
    """Two-digit factors: units, the two cross products, tens."""
    units = a % 10 * (b % 10)
    left, right = a // 10 * (b % 10), a % 10 * (b // 10)
    middle = left + right + units // 10
    tens = a // 10 * (b // 10)
    return f"{units};{left}+{right}+{units // 10}={middle};{tens}+{middle // 10}={tens + middle // 10}"


def _product_and_sum(a: int, b: int, c: int) -> str:
    """A two-digit times a one-digit number plus a two-digit one: units, then tens."""
    product, tens = a % 10 * b, a // 10 * b
    units = product + c % 10
    return f"{product}+{c % 10}={units};{tens}+{c // 10}+{units // 10}={tens + c // 10 + units // 10}"


def hinted(prompt: str, hint: str) -> str:
    """A plain-text prompt that also carries a hint (feedback, or a solved sibling) for self-distillation."""
    return f"({hint}){prompt}"


def split_of(expression: str) -> Split:
    """The split an expression belongs to, whatever the seed: fixed by a checksum.

    ``a+b`` and ``b+a`` (and products likewise) always share a split, so that no held-out
    expression is a training expression turned round.
    """
    a, operator, b, c = _parse(expression)
    if operator != "-":
        a, b = min(a, b), max(a, b)
    key = f"{a}{operator}{b}" + ("" if c is None else f"+{c}")
    return "test" if zlib.crc32(key.encode()) % TEST_SHARE == 0 else "train"


def draw(rng: random.Random, level: str, split: Split) -> str:
    """One expression of a level and a split, each equally likely."""
    while True:
        expression = LEVELS[level].at(rng.randrange(LEVELS[level].size))
        if split_of(expression) == split:
            return expression


class ArithmeticTask(Task):
    """Arithmetic problems made from a seed. See the module's table of levels.

    Grading: the answer is everything after the last ``#`` of the response, and it must be the
    result's decimal digits and nothing else. No space, sign, leading zero or digit outside 0-9 is
    forgiven, and a response without ``#`` has no answer. What comes before the last ``#`` is free.

    Feedback: a wrong response is told the correct working and result (``35;28+3=31;21+3=24#2415``), in
    characters that the tiny tokenizer knows; a right one is told nothing. It gives the answer away, so it
    belongs in a self-distillation teacher's prompt (:func:`hinted`) and never in the student's.

    Args:
        seed: chooses the problems; the splits themselves do not depend on it.
        train_problems: number of distinct training problems.
        test_problems: number of distinct held-out problems.
        levels: weight of each level in both splits; a level left out has weight 0.
    """

    name = "arithmetic"
    version = "2"
    template = "arithmetic/1"
    votes = True

    def __init__(
        self, *, seed: int, train_problems: int, test_problems: int, levels: Mapping[Any, float]
    ) -> None:
        _whole("seed", seed, minimum=0)
        weights = tuple(_weights(levels).items())
        self._examples: dict[Split, tuple[Example, ...]] = {
            "train": _make("train", _whole("train_problems", train_problems, minimum=1), weights, seed),
            "test": _make("test", _whole("test_problems", test_problems, minimum=1), weights, seed),
        }

    def examples(self, split: Split) -> Sequence[Example]:
        """All problems of a split, in a fixed order, levels mixed."""
        try:
            return self._examples[split]
        except KeyError:
            raise TaskError(f"arithmetic has the splits train and test, not {split!r}") from None

    def to_grade(self, number: int, row: Row) -> Example:
        """An expression of one of the levels in ``question``; its result need not be given."""
        expression = row.text("question").strip().removesuffix("=")
        shape = re.sub(r"\d", "0", expression, flags=re.ASCII)
        if shape not in _SHAPES:
            raise UnusableRow(f"{row.place}: {expression[:40]!r} is no expression of the levels 1 to 5")
        result = str(evaluate(expression))
        if (given := row.fields.get("answer")) is not None and str(given).strip() != result:
            raise UnusableRow(f"{row.place}: the answer of {expression} is {result}, not {given!r:.40}")
        return Example(uid=f"arithmetic/{number}", question=expression, answer=result, level=_SHAPES[shape])

    def render(self, example: Example) -> Prompt:
        """``37*85=``, alone or as the only user message."""
        text = f"{example.question}="
        return Prompt(messages=(Message(role="user", content=text),), text=text)

    def render_with_hint(self, example: Example, *, solution: str | None, feedback: str | None) -> Prompt:
        """``(35;31;24#2415)345*7=``: a solved sibling, or else the feedback, in brackets."""
        hint = solution if solution is not None else feedback
        if hint is None:
            raise ValueError(f"{example.uid}: a hint needs a solution or feedback")
        text = hinted(f"{example.question}=", hint)
        return Prompt(messages=(Message(role="user", content=text),), text=text)

    def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        """1 if the text after the last ``#`` is the result, else 0 with the working as feedback."""
        return one_by_one(self._verdict, examples, responses)

    def _verdict(self, example: Example, response: str) -> Reward:
        _, mark, tail = answer_part(response).rpartition(MARK)
        answer = tail if mark else None
        if answer == example.answer:
            return Reward(score=1.0, answer=answer)
        return Reward(score=0.0, answer=answer, feedback=demonstrate(example.question))


def _whole(key: str, value: Any, *, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise TaskError(f"arithmetic: {key} must be a whole number of at least {minimum}, got {value!r}")
    return value


def _weights(levels: Mapping[Any, float]) -> dict[str, float]:
    """The weights by level name, in the order of the levels, checked and without the zeros."""
    if not isinstance(levels, Mapping):
        raise TaskError(f"arithmetic: levels must map a level to its weight, got {levels!r}")
    given = {str(level): weight for level, weight in levels.items()}
    for level, weight in given.items():
        if level not in LEVELS:
            raise TaskError(f"arithmetic: levels has no level {level!r}; there are {', '.join(LEVELS)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise TaskError(
                f"arithmetic: levels.{level} must be a finite weight of at least 0, got {weight!r}"
            )
    weights = {level: float(given[level]) for level in LEVELS if given.get(level)}
    if not weights:
        raise TaskError("arithmetic: levels needs at least one weight above 0")
    return weights


def _shares(count: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Splits a count over the levels by weight; the largest remainders get what rounding leaves over."""
    total = sum(weights.values())
    exact = {level: count * weight / total for level, weight in weights.items()}
    shares = {level: int(value) for level, value in exact.items()}
    by_remainder = sorted(weights, key=lambda level: shares[level] - exact[level])
    for level in by_remainder[: count - sum(shares.values())]:
        shares[level] += 1
    return shares


def _distinct(rng: random.Random, level: str, split: Split, count: int) -> list[str]:
    """Distinct expressions of a level and a split in random order; an error when there are too few."""
    size, at = LEVELS[level].size, LEVELS[level].at
    seen: set[int] = set()
    found: list[str] = []
    while len(found) < count and len(seen) < size:
        index = rng.randrange(size)
        if index in seen:
            continue
        seen.add(index)
        expression = at(index)
        if split_of(expression) == split:
            found.append(expression)
    if len(found) < count:
        raise TaskError(
            f"arithmetic: {split}_problems and levels ask for {count} problems of level {level}; "
            f"its {split} split has {len(found)}"
        )
    return found


@lru_cache(maxsize=4)
def _make(split: Split, count: int, weights: tuple[tuple[str, float], ...], seed: int) -> tuple[Example, ...]:
    """Kept, because several tasks in a program, as those of a benchmark's parts or of a run, are the same."""
    # A string seed is hashed by its bytes: the same on every machine and in every process.
    rng = random.Random(f"arithmetic/{split}/{seed}")
    problems = [
        (level, expression)
        for level, share in _shares(count, dict(weights)).items()
        for expression in _distinct(rng, level, split, share)
    ]
    rng.shuffle(problems)
    return tuple(
        Example(
            uid=f"arithmetic/{split}/{number}",
            question=expression,
            answer=str(evaluate(expression)),
            level=level,
        )
        for number, (level, expression) in enumerate(problems)
    )
