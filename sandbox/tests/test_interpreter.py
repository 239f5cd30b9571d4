"""An interpreter keeps what code defines, says the same to the same code, and ends with its process alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import pytest
from pipo_sandbox import Closed, Interpreter, Late, Launcher, Limits, Output, interpreter

SECONDS = 0.5


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with Launcher(limits=Limits(cpu_s=1, memory_mb=256, output_kb=64), slots=2) as launcher:
        yield launcher


def started(launcher: Launcher) -> AbstractContextManager[Interpreter]:
    return interpreter(launcher, runs=20, shown_chars=30, allow=lambda used_s: SECONDS, wall_s=300.0)


def said(launcher: Launcher, pieces: Sequence[str]) -> list[Output]:
    with started(launcher) as one:
        return [one.run(piece) for piece in pieces]


def shown(text: str) -> Output:
    return Output(shown=text, error=None)


def failed(error: str, before: str = "") -> Output:
    return Output(shown=before, error=error)


def test_pieces_share_names_and_show_what_an_interpreter_shows(launcher: Launcher) -> None:
    pieces = {
        "x = 6\nprint(x)\nx * 7": shown("6\n42"),
        "x": shown("6"),
        "_ + 1": shown("7"),
        "print('a', end='')\n'b'": shown("a\n'b'"),
        "None": shown(""),
        "": shown(""),
        "def f(n):\n    return n / 0": shown(""),
        "print(1)\nf(1)\nprint(2)": failed("ZeroDivisionError: division by zero (line 2)", "1\n"),
        "1 +": failed("SyntaxError: invalid syntax (line 1)"),
        "bytearray(1 << 30)": failed("MemoryError (line 1)"),
        "exit(3)": failed("SystemExit: 3 (line 1)"),
        "input()": failed("EOFError: EOF when reading a line (line 1)"),
        "import sys\nprint('e', file=sys.stderr)": shown("e\n"),
        "open('f', 'w').write('kept')": shown("4"),
        "open('f').read()": shown("'kept'"),
        "print('x' * 35)": shown(f"{'x' * 30}... (6 more characters)"),
        "x, f(0)": failed("ZeroDivisionError: division by zero (line 2)"),
    }  # fmt: skip

    assert said(launcher, [*pieces, "x"]) == [*pieces.values(), shown("6")]


def test_the_same_pieces_show_the_same(launcher: Launcher) -> None:
    pieces = [
        "import random, secrets, uuid\nrandom.random()",
        "random.Random().random()",
        "random.seed()\nrandom.random()",
        "secrets.token_hex(4)",
        "str(uuid.uuid4())[:8]",
        "{'b', 'a', 'c', 'd'}",
        "object()",
    ]
    first = said(launcher, pieces)

    assert said(launcher, pieces) == first
    assert len({each.shown for each in first[:3]}) == 3, "they are random, though"


@pytest.mark.parametrize(
    ("piece", "end"),
    [
        ("while True: pass", Late),
        ("import time\ntime.sleep(100)", Late),
        ("import os\nos._exit(0)", Closed),
        ("import ctypes\nctypes.string_at(0)", Closed),
    ],
)
def test_what_ends_an_interpreter_ends_no_other(launcher: Launcher, piece: str, end: type[Exception]) -> None:
    with started(launcher) as other, started(launcher) as ended:
        other.run("x = 1")
        with pytest.raises(end):
            ended.run(piece)
        assert other.run("x") == shown("1")
