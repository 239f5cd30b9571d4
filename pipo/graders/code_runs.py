"""Run one program in a sandbox against its tests (standard input, calls, asserts) and judge the outputs."""

from __future__ import annotations

import re
import signal
from typing import Any

from pipo_sandbox import (
    CallProgram,
    Closed,
    Late,
    Launcher,
    Node,
    StdinProgram,
    WireError,
    call_program,
    decode,
    dump,
    encode,
    equal,
    judged_program,
    stdin_program,
)

from pipo.graders.code_rules import Rules, Run
from pipo.graders.code_tests import AssertTests, CallTests, ProgramTests, StdinTests
from pipo.graders.program_output import same_output

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


def _run_stdin(launcher: Launcher, program: str, tests: StdinTests, rules: Rules) -> Run:
    run = Run(len(tests.inputs), rules)
    while run.goes_on:  # once, unless a program manages to stop or end its sandbox
        with stdin_program(launcher, program, wall_s=rules.wall_s) as started:
            if started.problem:
                run.all_fail(f"The program cannot be compiled: {started.problem}")
            try:
                while run.goes_on:
                    _one_stdin_test(started, run, tests, rules)
            except (Closed, WireError) as error:
                run.fails(f"the program's process was lost ({error})")
    return run


def _one_stdin_test(started: StdinProgram, run: Run, tests: StdinTests, rules: Rules) -> None:
    text, expected = tests.inputs[run.done], tests.outputs[run.done]
    allowed = _allowed(len(expected.encode("utf-8", "surrogatepass")), rules)
    ended = started.run(
        text.encode("utf-8", "surrogatepass"),
        seconds=run.seconds_for_next,
        wall_s=rules.wall_s,
        output_bytes=allowed,
    )
    run.taken_s += ended.taken_s
    printed = ended.printed
    details = (
        f"Input: {_short(text)}",
        f"Output: {_short(printed[: 4 * _SHOWN].decode('utf-8', 'replace'))}",
    )
    if ended.status in (None, -signal.SIGXCPU):
        run.times_out(*details[:1])
    elif len(printed) >= allowed:
        run.fails(f"more than {allowed >> 10} kB of output", *details[:1])
    elif ended.status != 0:
        run.fails(_how_it_ended(ended.status, ended.errors), *details[:1])
    elif same_output(printed.decode("utf-8", "replace"), expected, rules.float_tolerance):
        run.passes()
    else:
        run.fails("wrong output", *details)


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
        calls = [encode(arguments) for arguments in tests.arguments]
        longest = max(len(dump(encode(expected))) for expected in tests.expected)
    except WireError as error:
        raise UnusableTest(f"a test cannot be sent to a program: {error}") from None
    allowed = _allowed(longest, rules)
    while run.goes_on:  # once, and again after each call that has ended the program
        with call_program(
            launcher,
            runs=run.total + 1,
            answer_bytes=allowed,
            allow=run.allowance(),
            wall_s=rules.wall_s,
        ) as started:
            try:
                function = _load_for_calls(started, run, program, tests.function, rules)
                while run.goes_on:
                    answer = started.call(function, calls[run.done])
                    _judge_call(run, answer, _right_results(tests, run.done), calls[run.done])
            except Late:
                run.times_out()
            except Closed:
                run.fails("the program ended during the call")
            except WireError as error:
                run.fails(f"no usable result: {error}")
    return run


def _load_for_calls(started: CallProgram, run: Run, program: str, function: str, rules: Rules) -> int:
    """Load the program; returns the handle of its function. If that fails, all tests do."""
    try:
        answer = started.load(program)
        if answer == ["value", None]:
            answer = started.function(function)
        match answer:
            case ["value", ["h", int(handle)]]:
                return handle
            case ["raise", _, str(text)]:
                run.all_fail(f"The program cannot be used: {_short(text)}")
            case _:
                run.all_fail(f"The program cannot be used: {function} is no function")
    except Late:
        run.all_fail(f"The program does not get to its end within {rules.timeout_s:g} s")
    except Closed:
        run.all_fail("The program ended when it was loaded")
    return -1


def _right_results(tests: CallTests, number: int) -> list[Any]:
    """What a call may return."""
    expected = tests.expected[number]
    wrapped = tests.maybe_wrapped and isinstance(expected, list) and len(expected) == 1
    return [expected, expected[0]] if wrapped else [expected]


def _judge_call(run: Run, answer: Node, right: list[Any], arguments: Node) -> None:
    match answer:
        case ["raise", _, str(text)]:
            run.fails(_short(text), _shown_arguments(arguments))
        case ["value", node]:
            if any(equal(node, result) for result in right):
                run.passes()
            else:
                result = f"Result: {_short(_display(node))}"
                run.fails("wrong result", _shown_arguments(arguments), result)
        case _:
            run.fails("malformed result", _shown_arguments(arguments))


def _shown_arguments(arguments: Node) -> str:
    return f"Arguments: {_short(_display(arguments))}"


def _display(node: Node) -> str:
    """A result for people; what is no plain value is named as such."""
    text = dump(node)
    if len(text) > 10 * _SHOWN:
        return f"a value of {len(text)} bytes"
    return repr(decode(node, lambda handle: "(an object)"))


def _run_asserts(launcher: Launcher, program: str, tests: AssertTests, rules: Rules) -> Run:
    run = Run(len(tests.statements), rules)
    # What a statement expects stands in it, or nowhere.
    allowed = _allowed(len(tests.setup) + max(map(len, tests.statements)), rules)
    while run.goes_on:  # once, and again after each statement that has ended one of the two
        with judged_program(
            launcher,
            runs=run.total + 1,
            answer_bytes=allowed,
            allow=run.allowance(),
            wall_s=rules.wall_s,
        ) as judged:
            try:
                statements = tests.statements[run.done :]
                verdict = judged.load(
                    program, setup=tests.setup, statements=statements, entry_point=tests.entry_point
                )
                if not verdict.passed:
                    run.all_fail(f"The program cannot be used: {_short(verdict.text)}")
                while run.goes_on and verdict.alive:
                    verdict = judged.verdict()
                    run.passes() if verdict.passed else run.fails(_short(verdict.text))
            except Late:
                run.times_out()
            except Closed:
                run.fails("the process of the tests ended")
    return run


def _allowed(expected_bytes: int, rules: Rules) -> int:
    """How much a program may give where so much is expected; what is right may have more blanks or digits."""
    return max(rules.output_bytes, 2 * expected_bytes)


def _short(text: str) -> str:
    """A text cut to what is worth showing."""
    text = text.strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
