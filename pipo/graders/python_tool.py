"""Python as a tool: a sandboxed interpreter for each episode, which keeps what earlier calls have defined.

The limits are those of graded programs (``pipo/graders/code.py``). What the sandbox covers is said in
``sandbox/README.md``.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipo_sandbox
from pipo_sandbox import Closed, Late, Launcher, Limits, SandboxError, WireError, weakness

from pipo.errors import TaskError
from pipo.graders.worker_pool import WorkerStartError
from pipo.records.options import Count, Options, Positive

_LOG = logging.getLogger(__name__)
_OURS = Path(__file__).parents[1]  # stays hidden, as from programs that are graded
# Interpreters of one launcher. A batch has as many episodes as it likes: where they are all taken, a further
# launcher is started, because an episode holds its interpreter while others wait for their turn.
_SLOTS = 64
NO_OUTPUT = "(no output)"
"""What a call that shows nothing is answered."""


class PythonLimits(Options):
    """What the calls of an episode may take."""

    timeout_s: Positive
    """Seconds that the calls of one turn take: processor time together, and what the running one sleeps."""
    wall_factor: Positive
    """How many times ``timeout_s`` by the clock, after which the machine is to blame for the episode."""
    cpu_s: Count
    """Seconds of processor time for one turn after which the system itself ends an interpreter."""
    memory_mb: Count
    """Address space of an interpreter, with Python's own."""
    output_kb: Count
    """Largest file that a call may write."""
    shown_chars: Count
    """Characters of what a call shows that the policy reads; how many more there are is said."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the policy reads of a call."""

    text: str
    """What was printed, the value of a last expression, the last line of the error."""
    failed: bool
    """Whether it raised, ended the interpreter, or went over a limit."""


class PythonTool:
    """Starts interpreters; threads may share it.

    Args:
        limits: of each interpreter.
        turns: in which an interpreter is called at most.

    Raises:
        TaskError: ``cpu_s`` is below ``timeout_s``, so that the system would end what is still in time.
    """

    def __init__(self, *, limits: PythonLimits, turns: Count) -> None:
        if limits.cpu_s < limits.timeout_s:
            raise TaskError(f"cpu_s must be at least timeout_s={limits.timeout_s:g}, got {limits.cpu_s}")
        self.limits, self.turns = limits, turns
        self._lock = threading.Lock()
        self._launchers: list[Launcher] = []
        self._open: dict[Launcher, int] = {}
        self._owner = 0

    def take(self) -> Launcher:
        """A launcher with a free place, which is taken from then on.

        Raises:
            WorkerStartError: no sandbox can be started on this system at all.
        """
        with self._lock:
            if self._owner != os.getpid():  # a forked child holds copies, but the processes are its parent's
                self._launchers, self._open, self._owner = [], {}, os.getpid()
            self._launchers = [launcher for launcher in self._launchers if launcher.alive]
            launcher = next((each for each in self._launchers if self._open[each] < _SLOTS), None)
            if launcher is None:
                launcher = self._started()
            self._open[launcher] = self._open.get(launcher, 0) + 1
            return launcher

    def give_back(self, launcher: Launcher) -> None:
        """An interpreter of it has ended."""
        with self._lock:
            if launcher in self._open:
                self._open[launcher] -= 1

    def close(self) -> None:
        """End every interpreter. They start again when they are needed."""
        with self._lock:
            launchers, self._launchers, self._open = self._launchers, [], {}
        if self._owner == os.getpid():
            for launcher in launchers:
                launcher.close()

    def _started(self) -> Launcher:
        limits = self.limits
        try:
            launcher = Launcher(
                limits=Limits(cpu_s=limits.cpu_s, memory_mb=limits.memory_mb, output_kb=limits.output_kb),
                slots=_SLOTS,
                hidden=[_OURS],
            )
        except SandboxError as error:
            raise WorkerStartError(f"no Python can be run as a tool: {error}") from error
        weakref.finalize(self, _close, launcher, os.getpid())
        if not self._launchers and (warning := weakness(launcher.report)):
            _LOG.warning(warning)
        self._launchers.append(launcher)
        return launcher

    def __getstate__(self) -> dict[str, Any]:
        return {"limits": self.limits, "turns": self.turns}  # processes cannot be pickled

    def __setstate__(self, options: dict[str, Any]) -> None:
        self.__init__(**options)


class PythonSession:
    """The interpreter of one episode; it starts with the first call.

    Args:
        tool: starts it.
    """

    def __init__(self, tool: PythonTool) -> None:
        self._tool, self._stack = tool, ExitStack()
        self._python: pipo_sandbox.Interpreter | None = None
        self._turn_began_s: float | None = None

    def run(self, calls: Sequence[str]) -> list[Shown]:
        """Run the calls of a turn, one after another.

        One that ends the interpreter or goes over a limit is said to; the next turn has a fresh interpreter,
        and the turn's remaining calls are not run.

        Raises:
            SandboxError: the sandbox fails, or the machine is too busy to judge a call.
        """
        self._turn_began_s = None
        found: list[Shown] = []
        for code in calls:
            if found and self._python is None:
                found.append(Shown(text="error: not run, the interpreter was restarted", failed=True))
                continue
            found.append(self._run(code))
        return found

    def close(self) -> None:
        """End the interpreter."""
        self._python = None
        self._stack.close()

    def _run(self, code: str) -> Shown:
        limits = self._tool.limits
        try:
            with self._stack as stack:
                if self._python is None:
                    self._python = self._start()
                output = self._python.run(code)
                self._stack = stack.pop_all()  # it stays open when nothing was raised
        except Late:
            return self._ended(f"no result within {limits.timeout_s:g} s of processor time")
        except (Closed, WireError):
            return self._ended("the interpreter ended")
        except SandboxError:
            self._python = None
            raise
        parts = (output.shown.rstrip("\n"), output.error)
        # Who answers has confined nobody but itself: what it says of its own length is not believed.
        text = "\n".join(part for part in parts if part)[: limits.shown_chars + 1000]
        return Shown(text=text or NO_OUTPUT, failed=output.error is not None)

    def _start(self) -> pipo_sandbox.Interpreter:
        tool, limits = self._tool, self._tool.limits
        launcher = tool.take()
        self._stack.callback(tool.give_back, launcher)
        return self._stack.enter_context(
            pipo_sandbox.interpreter(
                launcher,
                runs=tool.turns,
                shown_chars=limits.shown_chars,
                allow=self._left_s,
                wall_s=limits.wall_factor * limits.timeout_s,
            )
        )

    def _left_s(self, used_s: float) -> float:
        """Seconds that the calls of this turn may still take."""
        if self._turn_began_s is None:
            self._turn_began_s = used_s
        return max(0.001, self._tool.limits.timeout_s - (used_s - self._turn_began_s))

    def _ended(self, why: str) -> Shown:
        self._python = None
        return Shown(text=f"error: {why}; the interpreter was restarted, variables are gone", failed=True)


def _close(launcher: Launcher, owner: int) -> None:
    if os.getpid() == owner:
        launcher.close()
