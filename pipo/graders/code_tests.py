"""Tests of a program as plain data: standard input and output, function calls, assert statements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StdinTests:
    """Runs of the whole program, each with its own standard input."""

    inputs: tuple[str, ...]
    """Standard input of each run."""
    outputs: tuple[str, ...]
    """Standard output that each run must print, compared token by token of each line."""

    def __post_init__(self) -> None:
        _check_pairs("inputs", self.inputs, "outputs", self.outputs)


@dataclass(frozen=True, kw_only=True)
class CallTests:
    """Calls of one function, or of a method of a class ``Solution``."""

    function: str
    """Name of the function."""
    arguments: tuple[tuple[Any, ...], ...]
    """Positional arguments of each call, plain data."""
    expected: tuple[Any, ...]
    """Return value that each call must have, plain data."""
    maybe_wrapped: bool
    """Whether a list of one element in ``expected`` may stand for that element, so that returning either is
    right.
    """

    def __post_init__(self) -> None:
        _check_pairs("arguments", self.arguments, "expected", self.expected)


@dataclass(frozen=True, kw_only=True)
class AssertTests:
    """Test code of the data set, which calls what the program defines and asserts about the results."""

    setup: str
    """Code that runs before the tests and outside of the program: imports, helper functions."""
    statements: tuple[str, ...]
    """Test statements; each is one unit of the score."""
    entry_point: str | None
    """Name of the program's function that the statements call as ``candidate`` too; None if they call it by
    its own name only.
    """

    def __post_init__(self) -> None:
        if not self.statements:
            raise ValueError("statements: at least one test is needed")


ProgramTests = StdinTests | CallTests | AssertTests


@dataclass(frozen=True, kw_only=True)
class ProgramJob:
    """One program to be judged."""

    program: str | None
    """Python source of the program; None when the response holds none."""
    tests: ProgramTests
    """Tests that the program must pass."""


def _check_pairs(name: str, values: tuple[Any, ...], other_name: str, others: tuple[Any, ...]) -> None:
    if not values or len(values) != len(others):
        raise ValueError(
            f"{len(values)} {name} for {len(others)} {other_name}; as many are needed, at least one"
        )
