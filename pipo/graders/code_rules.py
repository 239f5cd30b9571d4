"""Limits and progress of one program's tests: time, time-outs, tests passed, first failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Limits of the tests of a program; :class:`~pipo.graders.code.CodeGrader` explains them."""

    stop_at_failure: bool
    """Whether no test is run after the first that fails: for ``all_pass`` one is enough."""
    timeout_s: float
    """Seconds of processor time, and of sleep, for one test."""
    total_s: float
    """Seconds for all tests of the program; those not reached count as failed."""
    wall_factor: float
    """How many times ``timeout_s`` a test may take by the clock."""
    max_timeouts: int
    """Tests that may run out of time before the rest count as failed."""
    output_bytes: int
    """Bytes that one test may print or return."""
    float_tolerance: float
    """Absolute or relative error allowed in printed decimal fractions; 0 for none."""

    @property
    def wall_s(self) -> float:
        """Time by the clock after which a test cannot be judged on a machine as busy as this one."""
        return self.wall_factor * self.timeout_s


class Run:
    """What has become of the tests of one program so far.

    Attributes:
        total: number of tests.
        done: number of tests with a verdict.
        passed: of these, how many passed.
        feedback: about the first test that failed; None while none has.
        taken_s: time that the program has taken for itself.
    """

    def __init__(self, total: int, rules: Rules) -> None:
        self.total, self._rules = total, rules
        self.done = self.passed = self._timeouts = 0
        self.feedback: str | None = None
        self.taken_s = 0.0

    @property
    def goes_on(self) -> bool:
        """Whether there is a test left that is to be run."""
        if self.done >= self.total or (self._rules.stop_at_failure and self.feedback is not None):
            return False
        return self._timeouts < self._rules.max_timeouts and self.taken_s < self._rules.total_s

    @property
    def seconds_for_next(self) -> float:
        """Time that the next test may take."""
        return max(0.001, min(self._rules.timeout_s, self._rules.total_s - self.taken_s))

    def allowance(self) -> Callable[[float], float]:
        """For a program that is started now: takes what it has taken since, gives what it may take next."""
        before_s = self.taken_s

        def allow(used_s: float) -> float:
            self.taken_s = before_s + used_s
            return self.seconds_for_next

        return allow

    def passes(self) -> None:
        """The next test has passed."""
        self.done += 1
        self.passed += 1

    def fails(self, how: str, *details: str) -> None:
        """The next test has failed."""
        self.done += 1
        if self.feedback is None:
            self.feedback = "\n".join([f"Test {self.done} of {self.total} failed: {how}", *details])

    def times_out(self, *details: str) -> None:
        """The next test has run out of time."""
        self._timeouts += 1
        self.fails(f"no answer within {self._rules.timeout_s:g} s", *details)

    def all_fail(self, how: str) -> None:
        """No test can be run."""
        self.done = self.total
        self.feedback = self.feedback or how
