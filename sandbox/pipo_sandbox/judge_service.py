"""Runs the test code of a data set against a program that lives in another sandbox.

The test code is trusted to tell the truth about the program, but it is code from a file, so that it
runs confined too. Of the program it gets nothing but what comes over a socket: plain values, made
here, and handles. The verdicts leave on another socket, which only this process has.

The other side says how many steps there are and how long an answer of the program may be, sends one order
(JSON) and gets one frame for the setup and one for each statement: whether it passed, what happened, and
whether the program is still there.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from . import values, wire
from .confinement import Confinement, fresh_module
from .processes import end_all
from .stopwatch import serve_meter

_MAX_ORDER = 1 << 30
_MAX_ANSWER_SLACK = 1 << 10
_MAX_READY = 16


class ProgramError(Exception):
    """The program under test raised something, or ended. The message says what."""


class _Remote:
    """The other end of the socket: the program.

    Attributes:
        alive: whether it has not been found gone.
    """

    def __init__(self, channel: socket.socket, max_answer: int) -> None:
        self._channel, self._max_answer = channel, max_answer
        self.alive = True

    def ask(self, kind: str, *arguments: Any) -> Any:
        """Give one order and wait for the answer; an exception of the program is raised here."""
        order = [kind, *(values.encode(argument, _handle_of) for argument in arguments)]
        try:
            wire.send(self._channel, values.dump(order))
            answer = values.load(wire.receive(self._channel, self._max_answer))
        except wire.Closed:
            self.alive = False
            raise ProgramError("the program ended") from None
        match answer:
            case ["value", node]:
                return values.decode(node, self._stand_in)
            case ["raise", str(name), str(text)]:
                raise _exception(name, text)
        raise ProgramError("the program sent a malformed answer")

    def _stand_in(self, handle: int) -> RemoteObject:
        return RemoteObject(self, handle)


class RemoteObject:
    """Stands for an object of the program that is no plain value.

    It can be called, asked for attributes and items, changed and passed back. It equals nothing:
    what the program's own ``__eq__`` says is of no interest.
    """

    __slots__ = ("_handle", "_remote")

    def __init__(self, remote: _Remote, handle: int) -> None:
        object.__setattr__(self, "_remote", remote)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it in the program; arguments go by value, handles excepted."""
        return self._remote.ask("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._remote.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._remote.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._remote.ask("item", self, key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._remote.ask("list", self))

    def __len__(self) -> int:
        return self._remote.ask("len", self)

    def __bool__(self) -> bool:
        return self._remote.ask("true", self) is True

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return id(self)


def _handle_of(value: Any) -> int:
    if type(value) is RemoteObject:
        return object.__getattribute__(value, "_handle")
    raise wire.WireError(f"a test passes a {type(value).__name__}, which cannot be sent to the program")


def _exception(name: str, text: str) -> Exception:
    """The exception that the program raised, if its type is built in, for tests that expect one."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
        return kind(text)
    return ProgramError(text)


def serve(sockets: Sequence[socket.socket], confinement: Confinement) -> None:
    """Judge one program."""
    verdicts, program, questions = sockets
    wire.receive(program, _MAX_READY)
    wire.send(verdicts, b"ready")
    runs, answer_bytes = wire.receive_terms(verdicts)

    def work() -> None:
        order = json.loads(wire.receive(verdicts, _MAX_ORDER))
        _judge(verdicts, _Remote(program, answer_bytes + _MAX_ANSWER_SLACK), order)

    pid = confinement.fork(work, keep=(verdicts.fileno(), program.fileno()), runs=runs)
    verdicts.close()
    program.close()
    serve_meter(questions, pid, alone=confinement.alone)
    end_all(confinement.scope)


def _judge(verdicts: socket.socket, remote: _Remote, order: dict[str, Any]) -> None:
    setup, statements, entry_point = order["setup"], order["statements"], order["entry_point"]
    names = fresh_module("tests").__dict__
    sys.setrecursionlimit(10_000)
    try:
        remote.ask("load", order["program"])
        wanted = wanted_names(setup, statements, entry_point)
        for name in wanted:
            _bind(remote, names, name)
        exec(compile(setup, "setup", "exec", dont_inherit=True), names)
        if entry_point is not None:
            names[entry_point] = names["candidate"] = remote.ask("name", entry_point)
    except BaseException as error:
        _report(verdicts, remote, error)
        return
    _report(verdicts, remote, None)
    for statement in statements:
        try:
            exec(compile(statement, "test", "exec", dont_inherit=True), names)
        except BaseException as error:
            _report(verdicts, remote, error)
        else:
            _report(verdicts, remote, None)


def _report(verdicts: socket.socket, remote: _Remote, error: BaseException | None) -> None:
    text = "" if error is None else describe(error)
    wire.send(verdicts, json.dumps([error is None, text, remote.alive]).encode())


def describe(error: BaseException) -> str:
    """What to tell about a failed statement; an assertion's own message may show the expected value."""
    if isinstance(error, AssertionError):
        return "assertion failed"
    if isinstance(error, ProgramError):
        return str(error)
    text = str(error)
    # Exceptions of the program come with their type in the text.
    return text if text.startswith(type(error).__name__) else f"{type(error).__name__}: {text[:300]}"


def wanted_names(setup: str, statements: list[str], entry_point: str | None) -> list[str]:
    """The global names that the test code uses and the program has to define.

    What the test code defines itself, ``candidate``, the entry point and built-in names are the
    test code's own: no program can put its ``abs`` or ``sorted`` in the place of the real one. The
    exception is test code that would need nothing of the program then: a problem that asks for a
    function ``sum``.
    """
    trees = [ast.parse(text) for text in (setup, *statements)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {"candidate", entry_point}
    used: dict[str, None] = {}
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used[name] = None
            case ast.Name(id=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                own.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.alias(name=name, asname=other):
                own.add(other or name.partition(".")[0])
    wanted = [name for name in used if name not in own and not hasattr(builtins, name)]
    if not wanted and entry_point is None:
        called = (node.func for node in nodes if isinstance(node, ast.Call))
        wanted = [f.id for f in called if isinstance(f, ast.Name) and f.id not in own][:1]
    return wanted


def _bind(remote: _Remote, names: dict[str, Any], name: str) -> None:
    """Give a name its meaning: a module of the standard library is one, whatever the program calls so."""
    if name in sys.stdlib_module_names:
        names[name] = importlib.import_module(name)
        return
    with suppress(NameError):  # the statements that use it fail by themselves
        names[name] = remote.ask("name", name)
