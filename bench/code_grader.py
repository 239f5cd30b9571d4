"""Processor time of grading short programs in the sandbox, beside a bare ``python`` that runs the same.

Both sides in turn, one program at a time; processor time is that of all processes, the launcher's start
aside, and what the kernel does on nobody's account, such as taking namespaces down.
``one start`` is a bare interpreter that runs the program once, on its first test. ``same tests`` is what the
tests of a program take without any protection: an interpreter for each input of a program that reads its
standard input, else one for the program with all of its calls or statements. Usage::

    python bench/code_grader.py [--programs 100] [--rounds 5] [--out code_grader.json]
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench import ruler
from pipo.graders.code import CodeGrader
from pipo.graders.code_tests import AssertTests, CallTests, ProgramJob, ProgramTests, StdinTests

PRINTS = "a, b = map(int, input().split())\nprint(a + b)\n"
RETURNS = "def f(a, b):\n    return a + b\n"


@dataclass(frozen=True, kw_only=True)
class Load:
    """A program with its tests, for both sides."""

    program: str
    """The program under test."""
    tests: ProgramTests
    """As the grader takes them."""
    scripts: tuple[str, ...]
    """What a bare interpreter runs, one start for each."""
    inputs: tuple[str, ...]
    """Standard input of each of these."""


def stdin_load(count: int) -> Load:
    """Sums to read and print."""
    inputs = tuple(f"{n} {n}\n" for n in range(count))
    tests = StdinTests(inputs=inputs, outputs=tuple(f"{2 * n}\n" for n in range(count)))
    return Load(program=PRINTS, tests=tests, scripts=(PRINTS,) * count, inputs=inputs)


def call_load(count: int) -> Load:
    """Sums to return."""
    tests = CallTests(
        function="f",
        arguments=tuple((n, n) for n in range(count)),
        expected=tuple(2 * n for n in range(count)),
        maybe_wrapped=False,
    )
    script = "".join([RETURNS, *(f"print(f({n}, {n}))\n" for n in range(count))])
    return Load(program=RETURNS, tests=tests, scripts=(script,), inputs=("",))


def assert_load(count: int) -> Load:
    """Sums to assert."""
    statements = tuple(f"assert f({n}, {n}) == {2 * n}" for n in range(count))
    tests = AssertTests(setup="", statements=statements, entry_point=None)
    return Load(program=RETURNS, tests=tests, scripts=("\n".join([RETURNS, *statements]),), inputs=("",))


LOADS = {
    "stdin, 1 test": stdin_load(1),
    "stdin, 5 tests": stdin_load(5),
    "calls, 1 test": call_load(1),
    "calls, 5 tests": call_load(5),
    "calls, 200 tests": call_load(200),
    "test code, 3 statements": assert_load(3),
}


def processor_s(action: Callable[[], None]) -> float:
    """Processor time of this process and of all that the action starts and ends."""
    before = ruler.family_cpu_seconds()
    action()
    return ruler.family_cpu_seconds() - before


def grade(load: Load, programs: int) -> float:
    """Seconds by the clock for this many programs, from the launcher's start to its end."""
    grader = CodeGrader(
        reward="fraction",
        workers=1,
        timeout_s=30.0,
        total_s=300.0,
        batch_s=3600.0,
        max_timeouts=1,
        cpu_s=30,
        memory_mb=1024,
        output_kb=1024,
        float_tolerance=1e-6,
    )
    grader.protections()  # starts the launcher
    start = time.perf_counter()
    rewards = grader.grade_batch([ProgramJob(program=load.program, tests=load.tests)] * programs)
    seconds = time.perf_counter() - start
    grader.close()
    if any(reward.score != 1.0 for reward in rewards):
        raise RuntimeError(f"a right program failed: {rewards}")
    return seconds


def run_bare(load: Load, programs: int) -> None:
    """The same programs and tests, without any protection."""
    for _ in range(programs):
        for script, text in zip(load.scripts, load.inputs, strict=True):
            command = [sys.executable, "-c", script]
            subprocess.run(command, input=text.encode(), check=True, capture_output=True)


def measure(load: Load, programs: int) -> dict[str, float]:
    """Milliseconds for each program, and the ratios, once."""
    wall: list[float] = []
    start_s = processor_s(lambda: wall.append(grade(load, 0)))
    graded = (processor_s(lambda: wall.append(grade(load, programs))) - start_s) / programs
    bare = processor_s(lambda: run_bare(load, programs)) / programs
    one_start = bare / len(load.scripts)
    return {
        "ms by the clock": 1e3 * wall[1] / programs,
        "ms of processor": 1e3 * graded,
        "bare, one start": 1e3 * one_start,
        "of one start": graded / one_start,
        "of the same tests": graded / bare,
    }


def main() -> None:
    """Measure and print."""
    parser = ruler.parser(__doc__)
    parser.add_argument("--programs", type=int, default=100, help="programs per measurement")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {name: {} for name in LOADS}
    for _ in range(options.rounds):
        for name, load in LOADS.items():
            for figure, value in measure(load, options.programs).items():
                found[name].setdefault(figure, []).append(value)
    figures = {
        name: {figure: ruler.Spread.of(values) for figure, values in row.items()}
        for name, row in found.items()
    }
    headings = next(iter(figures.values()))
    table = Table("", *headings, title=f"one program at a time, {options.rounds} rounds: median (range)")
    for name, row in figures.items():
        table.add_row(name, *(row[heading].show(2 if "of" in heading[:2] else 1) for heading in headings))
    Console(width=160).print(table)
    ruler.write(options.out, figures)


if __name__ == "__main__":
    main()
