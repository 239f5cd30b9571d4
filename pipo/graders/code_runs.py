"""One program against its tests: the trusted side of the conversation with its sandbox."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pipo_sandbox import wire
from pipo_sandbox.client import Launcher, SandboxError, Service
from pipo_sandbox.stopwatch import RemoteMeter, Starved, Stopwatch, patience, read_all

from pipo.graders.code_rules import Rules, Run
from pipo.graders.code_tests import AssertTests, CallTests, ProgramTests, StdinTests
from pipo.graders.program_output import same_output

# Beyond the clock of a test: the sandbox ends a late program itself and then says so.
_GRACE_S = 30.0
_START_TIMEOUT_S = 60.0
_FRAME_SLACK = 1 << 16
_SHOWN = 200
_PLACE = re.compile(r'  File "program\.py", line ([0-9]+)')


def run_job(launcher: Launcher, program: str, tests: ProgramTests, rules: Rules) -> Run:
    """Run a program against its tests.

    Raises:
        SandboxError: the sandbox fails.
    """
    match tests:
        case StdinTests():
            return _run_stdin(launcher, program, tests, rules)
        case CallTests():
            return _run_calls(launcher, program, tests, rules)
        case AssertTests():
            return _run_asserts(launcher, program, tests, rules)


class UnusableTest(Exception):
    """A test cannot be run, whatever the program. The message says why."""


class _Timer:
    """Gives each step of a program in sandboxes the time that the rules allow.

    Args:
        meters: ends of sockets on which the services of the sandboxes say what their programs use.
        run: is told what is taken.
        rules: of the run.
    """

    def __init__(self, meters: list[socket.socket], run: Run, rules: Rules) -> None:
        self._meters = [RemoteMeter(meter) for meter in meters]
        self._run, self._rules = run, rules
        self._before_s = run.taken_s

    def step(self, channel: socket.socket) -> wire.Patience:
        """Patience with a program that is to send something on this channel."""
        first = read_all(self._meters, used_only=True)
        self._run.taken_s = self._before_s + first.used_s
        seconds = self._run.seconds_for_next
        stopwatch = Stopwatch(
            lambda: read_all(self._meters), first, seconds=seconds, wall_s=self._rules.wall_s
        )
        return patience(stopwatch, channel)


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


def _run_stdin(launcher: Launcher, program: str, tests: StdinTests, rules: Rules) -> Run:
    run = Run(len(tests.inputs), rules)
    while run.goes_on:  # once, unless a program manages to stop or end its sandbox
        with _sandbox(launcher, "s") as channel:
            try:
                wall = _wall(rules)
                wire.send(channel, program.encode("utf-8", "surrogatepass"), wall)
                problem = wire.receive(channel, _FRAME_SLACK, wall)
            except wire.Late:
                raise SandboxError(f"the program is not compiled within {rules.wall_s:g} s") from None
            except wire.Closed:
                run.all_fail("The program cannot be compiled: the compiler ended on it")
                continue
            if problem:
                run.all_fail(f"The program cannot be compiled: {problem.decode(errors='replace')}")
            try:
                while run.goes_on:
                    _one_stdin_test(channel, run, tests, rules)
            except wire.Late:
                raise SandboxError(f"the sandbox has not answered for {rules.wall_s:g} s") from None
            except (wire.Closed, wire.WireError) as error:
                run.fails(f"the program's process was lost ({error})")
    return run


def _one_stdin_test(channel: socket.socket, run: Run, tests: StdinTests, rules: Rules) -> None:
    text, expected = tests.inputs[run.done], tests.outputs[run.done]
    allowed = _allowed(len(expected.encode("utf-8", "surrogatepass")), rules)
    order = {"seconds": run.seconds_for_next, "wall_s": rules.wall_s, "output_bytes": allowed}
    wall = _wall(rules)
    wire.send(channel, json.dumps(order).encode(), wall)
    wire.send(channel, text.encode("utf-8", "surrogatepass"), wall)
    status, taken_s = _status(wire.receive(channel, _FRAME_SLACK, wall))
    printed = wire.receive(channel, allowed + _FRAME_SLACK, wall)
    complaint = wire.receive(channel, _FRAME_SLACK, wall).decode("utf-8", "replace")
    run.taken_s += taken_s
    details = (
        f"Input: {_short(text)}",
        f"Output: {_short(printed[: 4 * _SHOWN].decode('utf-8', 'replace'))}",
    )
    if status in (None, -signal.SIGXCPU):
        run.times_out(*details[:1])
    elif len(printed) >= allowed:
        run.fails(f"more than {allowed >> 10} kB of output", *details[:1])
    elif status != 0:
        run.fails(_how_it_ended(status, complaint), *details[:1])
    elif same_output(printed.decode("utf-8", "replace"), expected, rules.float_tolerance):
        run.passes()
    else:
        run.fails("wrong output", *details)


def _status(report: bytes) -> tuple[int | None, float]:
    """How the program ended, None when its time was up, and what it has taken of its time."""
    match wire.load(report):
        case ["ended", None | int() as status, float(taken_s)]:
            return status, taken_s
        case ["starved", str(problem)]:
            raise Starved(problem)
    raise wire.WireError("a malformed report")


def _how_it_ended(status: int, complaint: str) -> str:
    if status < 0:
        if -status == signal.SIGKILL:
            return "killed, as a program is that uses too much CPU time"
        return f"ended by {signal.strsignal(-status) or f'signal {-status}'}"
    # The last line of a traceback is the error; the last one that names the program is where it came from.
    lines = complaint.strip().splitlines()
    places = [match[1] for line in lines if (match := _PLACE.match(line))]
    place = f" (line {places[-1]})" if places else ""
    return f"{_short(lines[-1])}{place}" if lines else f"exit status {status}"


def _run_calls(launcher: Launcher, program: str, tests: CallTests, rules: Rules) -> Run:
    run = Run(len(tests.arguments), rules)
    try:
        calls = [wire.encode(arguments) for arguments in tests.arguments]
        longest = max(len(wire.dump(wire.encode(expected))) for expected in tests.expected)
    except wire.WireError as error:
        raise UnusableTest(f"a test cannot be sent to a program: {error}") from None
    allowed = _allowed(longest, rules)
    while run.goes_on:  # once, and again after each call that has ended the program
        meter, questions = socket.socketpair()
        with meter, _sandbox(launcher, "c", questions) as channel:
            timer = _Timer([meter], run, rules)
            try:
                wire.send(channel, _terms(run, allowed))
                _load_for_calls(channel, run, timer, program, tests.function, rules)
                while run.goes_on:
                    order = ["call", ["h", 0], calls[run.done], ["d"]]
                    answer = _ask(channel, order, timer, allowed)
                    _judge_call(run, answer, _right_results(tests, run.done), calls[run.done])
            except wire.Late:
                run.times_out()
            except wire.Closed:
                run.fails("the program ended during the call")
            except wire.WireError as error:
                run.fails(f"no usable result: {error}")
    return run


def _load_for_calls(
    channel: socket.socket, run: Run, timer: _Timer, program: str, function: str, rules: Rules
) -> None:
    """Load the program; its first object is the function. If that fails, all tests do."""
    try:
        for order in (["load", wire.encode(program)], ["function", function]):
            answer = _ask(channel, order, timer, rules.output_bytes)
            match answer:
                case ["raise", _, str(text)]:
                    run.all_fail(f"The program cannot be used: {_short(text)}")
                    return
                case ["value", ["h", 0]] | ["value", None]:
                    continue
            run.all_fail(f"The program cannot be used: {function} is no function")
    except wire.Late:
        run.all_fail(f"The program does not get to its end within {rules.timeout_s:g} s")
    except wire.Closed:
        run.all_fail("The program ended when it was loaded")


def _ask(channel: socket.socket, order: wire.Node, timer: _Timer, allowed: int) -> wire.Node:
    step = timer.step(channel)
    wire.send(channel, wire.dump(order), step)
    return wire.load(wire.receive(channel, allowed + _FRAME_SLACK, step))


def _right_results(tests: CallTests, number: int) -> list[Any]:
    """What a call may return."""
    expected = tests.expected[number]
    wrapped = tests.maybe_wrapped and isinstance(expected, list) and len(expected) == 1
    return [expected, expected[0]] if wrapped else [expected]


def _judge_call(run: Run, answer: wire.Node, right: list[Any], arguments: wire.Node) -> None:
    shown = f"Arguments: {_short(_display(arguments))}"
    match answer:
        case ["raise", _, str(text)]:
            run.fails(_short(text), shown)
        case ["value", node]:
            if any(wire.equal(node, result) for result in right):
                run.passes()
            else:
                run.fails("wrong result", shown, f"Result: {_short(_display(node))}")
        case _:
            run.fails("malformed result", shown)


def _display(node: wire.Node) -> str:
    """A result for people; what is no plain value is named as such."""
    text = wire.dump(node)
    if len(text) > 10 * _SHOWN:
        return f"a value of {len(text)} bytes"
    return repr(wire.decode(node, lambda handle: "(an object)"))


def _run_asserts(launcher: Launcher, program: str, tests: AssertTests, rules: Rules) -> Run:
    run = Run(len(tests.statements), rules)
    # What a statement expects stands in it, or nowhere.
    allowed = _allowed(len(tests.setup) + max(map(len, tests.statements)), rules)
    while run.goes_on:  # once, and again after each statement that has ended one of the two
        with ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(3)]
            (to_program, program_end), (meter, questions), (judge_meter, judge_questions) = pairs
            for own in (meter, judge_meter):
                stack.enter_context(own)
            stack.enter_context(launcher.start("c", [program_end, questions]))
            wire.send(to_program, _terms(run, allowed))
            channel = stack.enter_context(_sandbox(launcher, "j", to_program, judge_questions))
            timer = _Timer([meter, judge_meter], run, rules)
            order = {
                "setup": tests.setup,
                "statements": tests.statements[run.done :],
                "entry_point": tests.entry_point,
                "program": program,
                "answer_bytes": allowed,
            }
            try:
                wire.send(channel, json.dumps(order).encode(), _wall(rules))
                ready, text, alive = _verdict(channel, timer.step(channel))
                if not ready:
                    run.all_fail(f"The program cannot be used: {text}")
                while run.goes_on and alive:
                    passed, text, alive = _verdict(channel, timer.step(channel))
                    run.passes() if passed else run.fails(text)
            except wire.Late:
                run.times_out()
            except wire.Closed:
                run.fails("the process of the tests ended")
    return run


def _verdict(channel: socket.socket, step: wire.Patience) -> tuple[bool, str, bool]:
    """The judge on the next step: whether it passed, what happened, whether the program lives on."""
    match wire.load(wire.receive(channel, _FRAME_SLACK, step)):
        case [bool(passed), str(text), bool(alive)]:
            return passed, _short(text), alive
    raise SandboxError("the judge gave a malformed verdict")


def _allowed(expected_bytes: int, rules: Rules) -> int:
    """How much a program may give where so much is expected; what is right may have more blanks or digits."""
    return max(rules.output_bytes, 2 * expected_bytes)


def _terms(run: Run, allowed: int) -> bytes:
    return json.dumps({"runs": run.total + 1, "answer_bytes": allowed}).encode()


def _await_ready(channel: socket.socket) -> None:
    try:
        wire.receive(channel, 16, wire.until(time.monotonic() + _START_TIMEOUT_S))
    except (wire.Closed, wire.Late) as error:
        raise SandboxError(f"a sandbox does not start ({type(error).__name__})") from None


def _wall(rules: Rules) -> wire.Patience:
    """Patience with the sandbox itself, which watches the time of its program."""
    return wire.until(time.monotonic() + rules.wall_s + _GRACE_S)


def _short(text: str) -> str:
    """A text cut to what is worth showing."""
    text = text.strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
