"""Programs in sandboxes as their user sees them: give one work, get what it answers and what it has taken.

Four kinds, one for each service:

* ``stdin_program``: the whole program, once for each standard input;
* ``call_program``: a program loaded once, and calls of what it defines;
* ``judged_program``: test code that calls what a program defines, each in a sandbox of its own;
* ``interpreter``: one piece of code after another, which share what they define.

All of them raise ``SandboxError`` when the sandbox fails or the machine is too busy, whatever the program
does. A program that is late, is gone or answers nonsense raises ``Late``, ``Closed`` or ``WireError``.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from . import stdin_frames, values, wire
from .client import Launcher, SandboxError, Service
from .stopwatch import RemoteMeter, Starved, Stopwatch, patience, read_all

# Beyond the clock of a program: its sandbox ends a late one itself and then says so.
_GRACE_S = 30.0
_START_TIMEOUT_S = 60.0
_FRAME_SLACK = 1 << 16

Allowance = Callable[[float], float]
"""Told the seconds that a program has taken since its start; says how many its next step may take."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program that read its standard input came to an end."""

    status: int | None
    """Exit status, negative for a signal; None when its time was up."""
    taken_s: float
    """Seconds that it took for itself."""
    printed: bytes
    """All of its standard output, up to the limit."""
    errors: str
    """The end of what it wrote to the standard error stream."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What test code found in one step."""

    passed: bool
    """Whether the step passed."""
    text: str
    """What happened, empty when it passed."""
    alive: bool
    """Whether the program is still there for a further step."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What an interpreter says to a piece of code."""

    shown: str
    """What was printed, and the value of a last expression."""
    error: str | None
    """Last line of the error; None when there was none."""


class StdinProgram:
    """A compiled program that can be run any number of times."""

    def __init__(self, channel: socket.socket, problem: str) -> None:
        self._channel = channel
        self.problem = problem
        """Why it cannot be compiled; empty if it can."""

    def run(self, text: bytes, *, seconds: float, wall_s: float, output_bytes: int) -> Ended:
        """Run it once.

        Args:
            text: its standard input.
            seconds: that it may take for itself: processor time, and time asleep.
            wall_s: seconds by the clock after which the machine is to blame.
            output_bytes: limit of its standard output.

        Raises:
            Closed, WireError: the program has ended its sandbox.
        """
        order = stdin_frames.write_order(text, seconds=seconds, wall_s=wall_s, output_bytes=output_bytes)
        wall = _wall(wall_s)
        try:
            wire.send(self._channel, order, wall)
            frame = wire.receive(self._channel, output_bytes + _FRAME_SLACK, wall)
        except wire.Late:
            raise SandboxError(f"the sandbox has not answered for {wall_s:g} s") from None
        status, taken_s, errors, printed = stdin_frames.read_report(frame)
        return Ended(
            status=status, taken_s=taken_s, printed=printed, errors=errors.decode("utf-8", "replace")
        )


class CallProgram:
    """A program that is loaded once and does what it is asked.

    Every answer is a node of ``values``: ``["value", node]`` or ``["raise", type, text]``. It is the
    program's answer, whatever it says: compare it with ``equal``, which calls nothing of the program.
    """

    def __init__(self, channel: socket.socket, clock: _Clock, answer_bytes: int) -> None:
        self._channel, self._clock, self._answer_bytes = channel, clock, answer_bytes

    def load(self, source: str) -> values.Node:
        """Run the program as a module; a value of None is the answer when that went well."""
        return self._ask(["load", values.encode(source)])

    def function(self, name: str) -> values.Node:
        """The function of that name, or the method of a ``Solution``: ``["value", ["h", handle]]``."""
        return self._ask(["function", name])

    def call(self, handle: int, arguments: values.Node) -> values.Node:
        """Call what a handle stands for.

        Args:
            handle: the number in the answer of ``function``.
            arguments: ``encode`` of a tuple.

        Raises:
            Late: the program has used up its time.
            Closed: the program has ended.
            WireError: what came is no answer.
        """
        return self._ask(["call", ["h", handle], arguments, ["d"]])

    def _ask(self, order: values.Node) -> values.Node:
        step = self._clock.step(self._channel)
        wire.send(self._channel, values.dump(order), step)
        return values.load(wire.receive(self._channel, self._answer_bytes + _FRAME_SLACK, step))


class JudgedProgram:
    """A program and the test code that judges it, in two sandboxes."""

    def __init__(self, channel: socket.socket, clock: _Clock, answer_bytes: int, wall_s: float) -> None:
        self._channel, self._clock = channel, clock
        self._answer_bytes, self._wall_s = answer_bytes, wall_s

    def load(self, source: str, *, setup: str, statements: Sequence[str], entry_point: str | None) -> Verdict:
        """Load the program and run the setup of the tests, which go on with the statements.

        Args:
            source: the program.
            setup: code that runs outside of the program, before the statements.
            statements: the tests; ``verdict`` is to be asked for each.
            entry_point: name in the program that the statements know as ``candidate`` too.
        """
        order = {
            "setup": setup,
            "statements": list(statements),
            "entry_point": entry_point,
            "program": source,
        }
        wall = _wall(self._wall_s)
        wire.send_terms(self._channel, len(statements) + 1, self._answer_bytes, wall)
        wire.send(self._channel, json.dumps(order).encode(), wall)
        return self.verdict()

    def verdict(self) -> Verdict:
        """Wait for the next statement.

        Raises:
            Late: program and test code have used up the time of the statement.
            Closed: the process of the test code has ended.
        """
        match values.load(wire.receive(self._channel, _FRAME_SLACK, self._clock.step(self._channel))):
            case [bool(passed), str(text), bool(alive)]:
                return Verdict(passed=passed, text=text, alive=alive)
        raise SandboxError("the judge gave a malformed verdict")


class Interpreter:
    """Runs one piece of code after another, in the same process."""

    def __init__(self, channel: socket.socket, clock: _Clock, shown_chars: int) -> None:
        self._channel, self._clock = channel, clock
        # Four bytes of UTF-8, or twelve of JSON; a note of what is left out and an error's line come besides.
        self._answer_bytes = 12 * shown_chars + _FRAME_SLACK

    def run(self, source: str) -> Output:
        """Run a piece of code and wait for its end.

        Raises:
            Late: it has used up its time.
            Closed: the process has ended.
            WireError: what came is no answer.
        """
        step = self._clock.step(self._channel)
        wire.send(self._channel, source.encode("utf-8", "surrogatepass"), step)
        match values.load(wire.receive(self._channel, self._answer_bytes, step)):
            case [str(shown), None | str() as error]:
                return Output(shown=shown, error=error)
        raise wire.WireError("a malformed answer")


@contextmanager
def stdin_program(launcher: Launcher, source: str, *, wall_s: float) -> Iterator[StdinProgram]:
    """A program in a sandbox, compiled.

    Args:
        launcher: where it runs.
        source: its text.
        wall_s: seconds by the clock for compiling it.
    """
    with _sandbox(launcher, "s") as channel:
        try:
            wall = _wall(wall_s)
            wire.send(channel, source.encode("utf-8", "surrogatepass"), wall)
            problem = wire.receive(channel, _FRAME_SLACK, wall).decode(errors="replace")
        except wire.Late:
            raise SandboxError(f"the program is not compiled within {wall_s:g} s") from None
        except wire.Closed:
            problem = "the compiler ended on it"
        yield StdinProgram(channel, problem)


@contextmanager
def call_program(
    launcher: Launcher, *, runs: int, answer_bytes: int, allow: Allowance, wall_s: float
) -> Iterator[CallProgram]:
    """A sandbox for a program whose functions are to be called.

    Args:
        launcher: where it runs.
        runs: steps at most, loading included, each with the processor time of ``Limits``.
        answer_bytes: limit of an answer.
        allow: the time of each step.
        wall_s: seconds by the clock after which the machine is to blame for a step.
    """
    answers, questions = socket.socketpair()
    with RemoteMeter(answers) as meter, _sandbox(launcher, "c", questions) as channel:
        wire.send_terms(channel, runs, answer_bytes)
        yield CallProgram(channel, _Clock([meter], allow, wall_s), answer_bytes)


@contextmanager
def judged_program(
    launcher: Launcher, *, runs: int, answer_bytes: int, allow: Allowance, wall_s: float
) -> Iterator[JudgedProgram]:
    """Two sandboxes, for a program and for test code; arguments as for ``call_program``."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(3)]
        (to_program, program_end), (answers, questions), (judge_answers, judge_questions) = pairs
        meters = [stack.enter_context(RemoteMeter(end)) for end in (answers, judge_answers)]
        stack.enter_context(launcher.start("c", [program_end, questions]))
        wire.send_terms(to_program, runs, answer_bytes)
        channel = stack.enter_context(_sandbox(launcher, "j", to_program, judge_questions))
        clock = _Clock(meters, allow, wall_s)
        yield JudgedProgram(channel, clock, answer_bytes, wall_s)


@contextmanager
def interpreter(
    launcher: Launcher, *, runs: int, shown_chars: int, allow: Allowance, wall_s: float
) -> Iterator[Interpreter]:
    """An interpreter in a sandbox.

    Args:
        launcher: where it runs.
        runs: pieces of code at most, each with the processor time of ``Limits``.
        shown_chars: characters of what a piece shows that are kept.
        allow: the time of each piece.
        wall_s: seconds by the clock after which the machine is to blame for a piece.
    """
    answers, questions = socket.socketpair()
    with RemoteMeter(answers) as meter, _sandbox(launcher, "r", questions) as channel:
        wire.send_terms(channel, runs, shown_chars)
        yield Interpreter(channel, _Clock([meter], allow, wall_s), shown_chars)


class _Clock:
    """Gives each step of a program the time that is allowed.

    Args:
        meters: of the programs in the sandboxes.
        allow: the time of a step.
        wall_s: by the clock.
    """

    def __init__(self, meters: list[RemoteMeter], allow: Allowance, wall_s: float) -> None:
        self._meters, self._allow, self._wall_s = meters, allow, wall_s

    def step(self, channel: socket.socket) -> wire.Patience:
        """Patience with a program that is to send something on this channel."""
        first = read_all(self._meters, used_only=True)
        seconds = self._allow(first.used_s)
        watch = Stopwatch(lambda: read_all(self._meters), first, seconds=seconds, wall_s=self._wall_s)
        return patience(watch, channel)


@contextmanager
def _sandbox(launcher: Launcher, service: Service, *extra: socket.socket) -> Iterator[socket.socket]:
    """A sandbox, as the socket to its service. What else the service talks on is ``extra``."""
    channel, theirs = socket.socketpair()
    with channel:
        sandbox = launcher.start(service, [theirs, *extra])
        try:
            _await_ready(channel)
            yield channel
        except SandboxError as error:
            reason = sandbox.end()
            raise SandboxError(f"{error}: {reason}" if reason else str(error)) from None
        except Starved as problem:
            raise SandboxError(str(problem)) from None
        finally:
            problem = sandbox.end()
        if problem or not launcher.alive:
            raise SandboxError(problem or "the sandbox launcher has died")


def _await_ready(channel: socket.socket) -> None:
    try:
        wire.receive(channel, 16, wire.until(time.monotonic() + _START_TIMEOUT_S))
    except (wire.Closed, wire.Late) as error:
        raise SandboxError(f"a sandbox does not start ({type(error).__name__})") from None


def _wall(wall_s: float) -> wire.Patience:
    """Patience with the sandbox itself, which watches the time of its program."""
    return wire.until(time.monotonic() + wall_s + _GRACE_S)
