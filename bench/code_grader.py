"""Cost of grading programs in the sandbox, against starting an interpreter per test.

``python bench/code_grader.py`` prints a table; ``--programs`` and ``--workers`` change the load.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipo.graders.code import CodeGrader
from pipo.graders.code_tests import AssertTests, CallTests, ProgramJob, ProgramTests, StdinTests

PRINTS = "a, b = map(int, input().split())\nprint(a + b)\n"
RETURNS = "def f(a, b):\n    return a + b\n"


def stdin_tests(count: int) -> StdinTests:
    """Sums to read and print."""
    return StdinTests(
        inputs=tuple(f"{n} {n}\n" for n in range(count)), outputs=tuple(f"{2 * n}\n" for n in range(count))
    )


def call_tests(count: int) -> CallTests:
    """Sums to return."""
    return CallTests(
        function="f",
        arguments=tuple((n, n) for n in range(count)),
        expected=tuple(2 * n for n in range(count)),
        maybe_wrapped=False,
    )


def assert_tests(count: int) -> AssertTests:
    """Sums to assert."""
    statements = tuple(f"assert f({n}, {n}) == {2 * n}" for n in range(count))
    return AssertTests(setup="", statements=statements, entry_point=None)


LOADS: dict[str, tuple[str, ProgramTests]] = {
    "stdin, 1 test": (PRINTS, stdin_tests(1)),
    "stdin, 200 tests": (PRINTS, stdin_tests(200)),
    "calls, 1 test": (RETURNS, call_tests(1)),
    "calls, 200 tests": (RETURNS, call_tests(200)),
    "test code, 3 statements": (RETURNS, assert_tests(3)),
}


def measure(grader: CodeGrader, program: str, tests: ProgramTests, programs: int) -> float:
    """Seconds for this many programs in one call."""
    jobs = [ProgramJob(program=program, tests=tests)] * programs
    start = time.perf_counter()
    rewards = grader.grade_batch(jobs)
    seconds = time.perf_counter() - start
    if any(reward.score != 1.0 for reward in rewards):
        raise RuntimeError(f"a right program failed: {rewards}")
    return seconds


def bare_interpreter(times: int) -> float:
    """Seconds for one start of an interpreter that runs one test, without any protection."""
    start = time.perf_counter()
    for _ in range(times):
        subprocess.run([sys.executable, "-c", PRINTS], input=b"1 2\n", check=True, capture_output=True)
    return (time.perf_counter() - start) / times


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=100, help="programs per measurement")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="programs at one time")
    options = parser.parse_args(arguments)
    table = Table("", "workers", "ms per program", "programs per second", title="code grader")
    for workers in dict.fromkeys((1, options.workers)):
        grader = CodeGrader(
            reward="fraction",
            workers=workers,
            timeout_s=30.0,
            total_s=300.0,
            batch_s=3600.0,
            max_timeouts=1,
            cpu_s=30,
            memory_mb=1024,
            output_kb=1024,
            float_tolerance=1e-6,
        )
        measure(grader, PRINTS, stdin_tests(1), 1)  # the launcher starts with the first program
        for name, (program, tests) in LOADS.items():
            count = options.programs if "200" not in name else max(1, options.programs // 10)
            each = measure(grader, program, tests, count) / count
            table.add_row(name, str(workers), f"{1e3 * each:.1f}", f"{1 / each:.1f}")
        grader.close()
    each = bare_interpreter(20)
    table.add_row("a bare interpreter, 1 test", "1", f"{1e3 * each:.1f}", f"{1 / each:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
