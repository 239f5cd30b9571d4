"""What a program is tested with: plain data, so that it can travel between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StdinTests:
    """Runs of the whole program, each with its own standard input.

    Attributes:
        inputs: what each run reads.
        outputs: what each run must print, compared token by token of each line.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_pairs("inputs", self.inputs, "outputs", self.outputs)


@dataclass(frozen=True, kw_only=True)
class CallTests:
    """Calls of one function, or of a method of a class ``Solution``.

    Attributes:
        function: its name.
        arguments: positional arguments of each call, plain data.
        expected: what each call must return, plain data.
        maybe_wrapped: whether a list of one element in ``expected`` may stand for that element, so that
            returning either is right.
    """

    function: str
    arguments: tuple[tuple[Any, ...], ...]
    expected: tuple[Any, ...]
    maybe_wrapped: bool

    def __post_init__(self) -> None:
        _check_pairs("arguments", self.arguments, "expected", self.expected)


@dataclass(frozen=True, kw_only=True)
class AssertTests:
    """Test code of the data set, which calls what the program defines and asserts about the results.

    Attributes:
        setup: code that runs before the tests and outside of the program: imports, helper functions.
        statements: the tests; each is one unit of the score.
        entry_point: name of the program's function that the statements call as ``candidate`` too; None if
            they call it by its own name only.
    """

    setup: str
    statements: tuple[str, ...]
    entry_point: str | None

    def __post_init__(self) -> None:
        if not self.statements:
            raise ValueError("statements: at least one test is needed")


ProgramTests = StdinTests | CallTests | AssertTests


@dataclass(frozen=True, kw_only=True)
class ProgramJob:
    """One program to be judged.

    Attributes:
        program: Python source; None when the response holds none.
        tests: what it is tested with.
    """

    program: str | None
    tests: ProgramTests


def _check_pairs(name: str, values: tuple[Any, ...], other_name: str, others: tuple[Any, ...]) -> None:
    if not values or len(values) != len(others):
        raise ValueError(
            f"{len(values)} {name} for {len(others)} {other_name}; as many are needed, at least one"
        )
