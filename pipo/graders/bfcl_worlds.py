"""Act on BFCL's simulated systems and check conversations, several at a time in sandboxed processes.

The calls are a policy's, so they run in the sandbox. A process serves many conversations; what one of them
does to it (a limit that it runs into) costs that step alone, because every other conversation is taken up
again from its calls.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipo_sandbox import Launcher, Limits, SandboxError

from pipo.distributed.processes import own_cores
from pipo.errors import TaskError
from pipo.graders.bfcl_worker import OverTheLimit, Worker, package_folder

_OURS = Path(__file__).parents[1]
# What stands for the calls of a step that ran into a limit: a function that nothing has.
_OVER = "over_the_limit()"
_MOST_WORKERS = 100
Step = tuple[str, ...]
"""The calls of one step, as the text that is executed."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the simulators and the checker need of a problem."""

    world: str
    """JSON with ``id``, ``initial_config`` and ``involved_classes``, as in the row."""
    truth: tuple[Step, ...]
    """The right calls of each turn."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The official checker's verdict."""

    right: bool
    """Whether state and results were right after every turn."""
    reason: str
    """What was wrong, empty if nothing."""


class Simulators:
    """Processes that simulate BFCL's systems; each starts when it is first needed.

    Args:
        workers: processes; None for this process's share of the node's cores.
        seconds: processor time of one step, and of each step and turn that a verdict runs.
        wall_s: by the clock, after which the machine is to blame.
        memory_mb: address space of a process, with the interpreter's.
        output_kb: what the calls of one step may return.

    Raises:
        TaskError: an option is out of range.
    """

    def __init__(
        self, *, workers: int | None, seconds: float, wall_s: float, memory_mb: int, output_kb: int
    ) -> None:
        self._options = {name: value for name, value in locals().items() if name != "self"}
        if workers is not None and not 1 <= workers <= _MOST_WORKERS:
            raise TaskError(f"simulators.workers must lie between 1 and {_MOST_WORKERS}, got {workers}")
        for name, value in (("seconds", seconds), ("memory_mb", memory_mb), ("output_kb", output_kb)):
            if value <= 0:
                raise TaskError(f"simulators.{name} must be more than 0, got {value:g}")
        if wall_s < seconds:
            raise TaskError(f"simulators.wall_s={wall_s:g} is less than seconds={seconds:g}")
        count = min(_MOST_WORKERS, own_cores()) if workers is None else workers
        # The kernel's own limit is far behind: it counts all the steps of a process together.
        self._limits = Limits(cpu_s=1, memory_mb=memory_mb, output_kb=output_kb)
        self._workers = [Worker(self._launched, seconds, wall_s, output_kb << 10) for _ in range(count)]
        self._numbers = itertools.count()
        self._launcher: Launcher | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def world(self, case: Case) -> World:
        """The systems of one conversation, as they are at its beginning."""
        package_folder()
        number = next(self._numbers)
        return World(case, number, self._workers[number % len(self._workers)], self._numbers)

    def close(self) -> None:
        """End the processes; they start again when they are needed."""
        for worker in self._workers:
            with worker.lock:
                worker.stop()
        launcher, self._launcher = self._launcher, None
        if launcher is not None and self._owner == os.getpid():
            self._finalizer.detach()
            launcher.close()

    def _launched(self) -> Launcher:
        with self._lock:
            if self._launcher is None or not self._launcher.alive:
                hidden = [_OURS, package_folder() / "data"]
                launcher = Launcher(limits=self._limits, slots=len(self._workers), hidden=hidden)
                self._launcher = launcher
                self._finalizer = weakref.finalize(self, _close, launcher, self._owner)
            return self._launcher

    def __getstate__(self) -> dict[str, Any]:
        return self._options  # processes cannot be pickled; the copy starts its own

    def __setstate__(self, options: dict[str, Any]) -> None:
        self.__init__(**options)


class World:
    """The simulated systems of one conversation, on which a policy acts.

    Attributes:
        steps: the calls of every step so far, as they were run.
    """

    def __init__(self, case: Case, number: int, worker: Worker, numbers: itertools.count[int]) -> None:
        self._case, self._number, self._worker, self._numbers = case, number, worker, numbers
        self.steps: list[Step] = []

    def step(self, calls: Step) -> list[str]:
        """Results of the calls of a step, in order, as the leaderboard's code writes them.

        A step that runs into a limit has changed nothing, and says so in the place of each result.

        Raises:
            SandboxError: the sandbox failed, twice.
            TaskError: the world of the problem cannot be built.
        """
        with self._worker.lock:
            try:
                results = _again(lambda: self._results(calls))
            except OverTheLimit as problem:
                self._number = next(self._numbers)  # what is left of the world is not this one's state
                self.steps.append((_OVER,) * len(calls))
                return [f"Error during execution: the step ran into a limit ({problem})"] * len(calls)
        self.steps.append(calls)
        return results

    def verdict(self, turns: Sequence[Sequence[Step]]) -> Checked:
        """The official checker's verdict on the steps of each turn, which it runs anew beside the right ones.

        Args:
            turns: the steps with calls of each turn, as ``steps`` has them.

        Raises:
            SandboxError: the sandbox failed, twice.
        """
        truth = list(map(list, self._case.truth))
        if len(turns) != len(truth):  # the leaderboard calls it force-terminated
            return Checked(right=False, reason=f"the conversation ended in turn {len(turns)} of {len(truth)}")
        written = [[list(step) for step in turn] for turn in turns]
        steps = 1 + len(truth) + sum(map(len, turns))

        def ask() -> Any:
            return self._worker.ask("verdict", self._case.world, written, truth, steps=steps)

        with self._worker.lock:
            try:
                found = _again(ask)
            except OverTheLimit as problem:
                return Checked(right=False, reason=f"it cannot be checked ({problem})")
        match found:
            case [bool(right), str(kind), str(message)]:
                return Checked(right=right, reason="" if right else f"{kind}: {message}")
        return Checked(right=False, reason="the checker gave a malformed answer")

    def close(self) -> None:
        """Forget the systems."""
        with self._worker.lock:
            self._worker.forget(self._number)

    def _results(self, calls: Step) -> list[str]:
        answer = self._worker.ask("step", self._number, len(self.steps), list(calls))
        if answer is None:
            self._begin()
            answer = self._worker.ask("step", self._number, len(self.steps), list(calls))
        if not isinstance(answer, list) or list(map(type, answer)) != [str] * len(calls):
            raise OverTheLimit("a malformed answer")
        return answer

    def _begin(self) -> None:
        """Build the world, with the steps that it has taken; in a fresh process if the running one cannot."""
        history = list(map(list, self.steps))

        def ask() -> None:
            self._worker.ask("begin", self._number, self._case.world, history, steps=len(history) + 1)

        try:
            try:
                ask()
            except OverTheLimit:
                self._worker.stop()
                ask()
        except OverTheLimit as problem:
            if history:  # each step was within the limits by itself
                raise SandboxError(f"a conversation cannot be taken up again ({problem})") from None
            raise TaskError(f"the systems of a problem cannot be simulated ({problem})") from None


def _again(ask: Callable[[], Any]) -> Any:
    """What is asked for, once more if the sandbox fails."""
    try:
        return ask()
    except SandboxError:
        return ask()


def _close(launcher: Launcher, owner: int) -> None:
    if os.getpid() == owner:  # a forked child holds a copy, but the process is its parent's
        launcher.close()
