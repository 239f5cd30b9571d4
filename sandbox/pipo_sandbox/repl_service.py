"""A Python interpreter that is given one piece of code after another and keeps what they define.

All of it runs in the code's own process, which the code may do with as it likes: what it says is its own
word.

It says that it is ready and is told how many pieces there will be at most and how many characters of
what each shows are kept. Each piece of code is a frame, answered by the node ``[shown, error]``: what was
printed, with the value of a last expression on a line of its own as an interpreter shows it, and the last
line of the error, None without one.

The same pieces show the same: random numbers begin from a fixed seed, also those that come from the system
(``os.urandom``, ``secrets``, ``uuid4``, numpy), and addresses of objects are left out. Clocks are not fixed.
"""

from __future__ import annotations

import ast
import io
import linecache
import os
import random
import re
import socket
import sys
from collections.abc import Sequence
from types import CodeType
from typing import Any

from . import values, wire
from .confinement import PROGRAM, Confinement, fresh_module, one_line
from .processes import end_all
from .stopwatch import serve_meter

_MAX_CODE = 1 << 24
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")


def serve(sockets: Sequence[socket.socket], confinement: Confinement) -> None:
    """Serve one interpreter until it ends or the other side has gone; the second socket asks what it uses."""
    channel, questions = sockets
    wire.send(channel, b"ready")
    runs, shown_chars = wire.receive_terms(channel)

    def work() -> None:
        _Interpreter(channel, shown_chars).serve()

    pid = confinement.fork(work, keep=(channel.fileno(),), runs=runs)
    channel.close()
    serve_meter(questions, pid, alone=confinement.alone)
    end_all(confinement.scope)


class _Interpreter:
    """The names that the code has defined so far."""

    def __init__(self, channel: socket.socket, shown_chars: int) -> None:
        self._channel, self._shown_chars = channel, shown_chars
        self._names: dict[str, Any] = fresh_module("__main__").__dict__
        fix_chance()

    def serve(self) -> None:
        """Run code until the other side has gone."""
        while True:
            try:
                source = wire.receive(self._channel, _MAX_CODE).decode("utf-8", "surrogatepass")
            except wire.Closed:
                return
            shown = Shown(self._shown_chars)
            error = self._run(source, shown)
            text = _without_addresses(shown.text())
            wire.send(
                self._channel, values.dump([text, None if error is None else _without_addresses(error)])
            )

    def _run(self, source: str, shown: Shown) -> str | None:
        """Run one piece; the last line of its error."""
        sys.stdin, sys.stdout, sys.stderr = io.StringIO(), shown, shown  # exit() closes the first
        try:
            body, last = compiled(source)
            exec(body, self._names)
            if last is not None and (value := eval(last, self._names)) is not None:
                self._names["_"] = value
                shown.line(repr(value))
        except SyntaxError as error:
            place = f" (line {error.lineno})" if error.lineno else ""
            return f"{type(error).__name__}: {error.msg}{place}"
        except BaseException as error:
            return one_line(error)
        return None


def compiled(source: str) -> tuple[CodeType, CodeType | None]:
    """The statements of a piece, and its last expression if it ends with one.

    Raises:
        Exception: it cannot be compiled; what exactly depends on what is wrong with it.
    """
    linecache.cache[PROGRAM] = (len(source), None, source.splitlines(keepends=True), PROGRAM)
    tree = ast.parse(source, PROGRAM)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    body = compile(tree, PROGRAM, "exec", dont_inherit=True)
    if not isinstance(last, ast.Expr):
        return body, None
    return body, compile(ast.Expression(last.value), PROGRAM, "eval", dont_inherit=True)


class Shown(io.TextIOBase):
    """What is printed, up to a number of characters; the rest is counted.

    Args:
        most: characters that are kept.
    """

    def __init__(self, most: int) -> None:
        self._room, self._left_out, self._ends_line = most, 0, True
        self._parts: list[str] = []

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def write(self, text: str) -> int:
        """Keep as much as there is room for."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            kept = str(text[: self._room])
            self._parts.append(kept)
            self._room -= len(kept)
            self._left_out += len(text) - len(kept)
            self._ends_line = text.endswith("\n")
        return len(text)

    def line(self, text: str) -> None:
        """A text on a line of its own."""
        self.write(text if self._ends_line else f"\n{text}")

    def text(self) -> str:
        """What is kept, and how much is not."""
        kept = "".join(self._parts)
        return f"{kept}... ({self._left_out} more characters)" if self._left_out else kept


def fix_chance() -> None:
    """Let all random numbers of this process follow from one seed."""
    source = random.Random(0)
    os.urandom = random._urandom = source.randbytes  # type: ignore[attr-defined]
    seed = random.Random.seed

    def seeded(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed(self, source.getrandbits(64) if a is None else a, version)

    random.Random.seed = seeded  # type: ignore[method-assign]
    random.seed = random._inst.seed  # type: ignore[attr-defined]
    random.seed(0)


def _without_addresses(text: str) -> str:
    return _ADDRESS.sub("at 0x...", text)
