"""Grade Python programs in a sandbox, several at a time: share of tests passed, or all of them.

A program receives inputs and gives answers. It never holds the expected outputs, nor a channel on
which a verdict travels: verdicts are formed here, or for the test code of a data set in a second
sandbox. So nothing that it prints, patches or forges counts for more than the answer that it is.

How answers are compared is said in ``program_output`` (what is printed) and ``pipo_sandbox.values`` (what is
returned: by ``==`` on exact built-in values and without tolerance, as the official checkers of
TACO and LiveCodeBench do; tuples count as lists at every level, there only at the outer ones).

What keeps a program in, and what is left where a protection is missing, is said in ``sandbox/README.md``;
``python -m pipo doctor`` prints what the system at hand allows.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pipo_sandbox import Launcher, Limits, SandboxError, weakness

from pipo.distributed.processes import others_wait, own_cores
from pipo.errors import TaskError
from pipo.graders.code_rules import Rules, Run
from pipo.graders.code_runs import UnusableTest, run_job
from pipo.graders.code_tests import ProgramJob, ProgramTests
from pipo.records.problems import Reward

_LOG = logging.getLogger(__name__)
# Installed among the packages that programs may import, this one stays hidden from them.
_OURS = Path(__file__).parents[1]
# Two sandboxes a program, and a slot is one byte on the wire.
_MOST_WORKERS = 100
_LATE = "the programs of the batch were not graded in time"


class CodeGrader:
    """Runs programs against their tests, several at a time.

    Args:
        reward: ``fraction`` is the share of tests passed; ``all_pass`` is 1 for all of them, else 0.
        workers: programs that run at one time; None for this process's share of the node's cores.
        timeout_s: seconds that a program may take for one test: processor time, and time that it sleeps. The
            start of the program counts as one test.
        total_s: the same for all tests of one program; those not reached count as failed.
        batch_s: seconds by the clock for all programs of a call, from its beginning, also for those that
            were begun before; while other processes wait for this one.
            What is not graded then is counted apart, as the machine's fault.
        wall_factor: how many times ``timeout_s`` a test may take by the clock. Beyond that the machine is
            too busy to judge the program, which is tried once more and then counted apart.
        max_timeouts: tests of one program that may run out of time before the rest count as failed.
        cpu_s: seconds of processor time for one test after which the system itself ends a process.
        memory_mb: address space of the program, with the interpreter's.
        output_kb: what one test may print or return; twice as much as is expected where that is more.
        float_tolerance: absolute or relative error allowed in printed decimal fractions; 0 for none.

    Raises:
        TaskError: an option is out of range.
    """

    def __init__(
        self,
        *,
        reward: Literal["fraction", "all_pass"],
        workers: int | None,
        timeout_s: float,
        total_s: float,
        max_timeouts: int,
        cpu_s: int,
        memory_mb: int,
        output_kb: int,
        float_tolerance: float,
        batch_s: float,
        wall_factor: float = 10.0,
    ) -> None:
        if reward not in ("fraction", "all_pass"):
            raise TaskError(f"grader reward must be 'fraction' or 'all_pass', got {reward!r}")
        _check_range("workers", 1 if workers is None else workers, 1, _MOST_WORKERS)
        _check_range("timeout_s", timeout_s, 0.01, 3600)
        _check_range("total_s", total_s, timeout_s, 86400)
        _check_range("batch_s", batch_s, 0.01, 86400)
        _check_range("wall_factor", wall_factor, 2, 1000)
        _check_range("max_timeouts", max_timeouts, 1, 1_000_000)
        _check_range("cpu_s", cpu_s, 1, 3600)
        _check_range("memory_mb", memory_mb, 64, 1 << 20)
        _check_range("output_kb", output_kb, 1, 1 << 20)
        _check_range("float_tolerance", float_tolerance, 0, 0.01)
        self._options = {name: value for name, value in locals().items() if name != "self"}
        self._workers = min(_MOST_WORKERS, own_cores()) if workers is None else workers
        self._batch_s = batch_s
        self._limits = Limits(cpu_s=cpu_s, memory_mb=memory_mb, output_kb=output_kb)
        self._rules = Rules(
            stop_at_failure=reward == "all_pass",
            timeout_s=timeout_s,
            total_s=total_s,
            wall_factor=wall_factor,
            max_timeouts=max_timeouts,
            output_bytes=output_kb << 10,
            float_tolerance=float_tolerance,
        )
        self._lock = threading.Lock()
        self._call: _Call | None = None
        self._launcher: Launcher | None = None
        self._refused = False  # no sandbox could be started since a batch was asked for
        self._owner = 0

    def grade(self, job: ProgramJob) -> Reward:
        """The verdict on one program."""
        return self.grade_batch([job])[0]

    def begin(self, jobs: Sequence[ProgramJob]) -> None:
        """Run programs that the next ``grade_batch`` will be asked about, beside what the caller does.

        One program fewer at a time than otherwise, because the caller needs a core. Where no sandbox can be
        started nothing begins; ``grade_batch`` will say so.
        """
        with self._lock:
            if self._refused:
                return  # each try holds up the caller, a minute where the system is slow to refuse
            try:
                call = self._running_call()
            except SandboxError:
                self._refused = True
                return
            for job in jobs:
                call.begun[_key(job)].append(call.pool.submit(self._grade, call, job))
                call.tests.append(job.tests)

    def grade_batch(self, jobs: Sequence[ProgramJob]) -> list[Reward]:
        """One verdict per program, in order. No failure of a program raises, or shows as an error.

        What the machine could not do, tried twice, is marked ``infrastructure``. So is what it has not done
        in ``batch_s``, where others would give the run up before it has. What was begun for other programs
        is dropped.

        Raises:
            SandboxError: no sandbox can be started on this system at all.
        """
        with self._lock:
            self._refused = False
            call = self._running_call()
            try:
                taken = [call.taken(job) or call.pool.submit(self._grade, call, job) for job in jobs]
                dropped = call.drop()
                call.free.release()  # the caller only waits from here on, so its core is free
                watch = threading.Timer(self._batch_s, _stop, (call,)) if others_wait() else None
                if watch is not None:
                    watch.start()
                try:
                    graded = [future.result() for future in taken]
                finally:
                    if watch is not None:
                        watch.cancel()
                        watch.join()  # a launcher that is being closed still looks alive to the next call
                if dropped:
                    self._end_launcher()  # they may be running; another launcher serves the next call
                if call.late.is_set():
                    _LOG.warning(
                        "%d of %d programs were not graded within %g s (batch_s) and count as errors of "
                        "the machine",
                        sum(verdict.infrastructure for verdict in graded),
                        len(graded),
                        self._batch_s,
                    )
                return graded
            except BaseException:
                # Ctrl-C: without their sandboxes the threads end by themselves.
                self._end_launcher()
                raise
            finally:
                self._end_call()

    def close(self) -> None:
        """End the launcher and every program, begun ones too. They start again when they are needed."""
        self._end_launcher()
        self._end_call()

    def _end_launcher(self) -> None:
        launcher, self._launcher = self._launcher, None
        if launcher is not None and self._owner == os.getpid():
            self._finalizer.detach()
            launcher.close()

    def _end_call(self) -> None:
        call, self._call = self._call, None
        if call is not None and self._owner == os.getpid():  # a forked child has no threads to wait for
            call.pool.shutdown(wait=True, cancel_futures=True)

    def _running_call(self) -> _Call:
        """The call that programs were begun for, or a new one."""
        launcher = self._running_launcher()
        if self._call is None or self._call.launcher is not launcher:
            self._end_call()
            self._call = _Call(launcher, self._workers)
        return self._call

    def protections(self) -> dict[str, str]:
        """For each protection an empty text if it is active, else why it is not."""
        with self._lock:
            return dict(self._running_launcher().report)

    def _running_launcher(self) -> Launcher:
        if self._launcher is None or self._owner != os.getpid() or not self._launcher.alive:
            launcher = Launcher(limits=self._limits, slots=2 * self._workers, hidden=[_OURS])
            self._launcher, self._owner = launcher, os.getpid()
            self._finalizer = weakref.finalize(self, _close, launcher, self._owner)
            if warning := weakness(launcher.report):
                _LOG.warning(warning)
        return self._launcher

    def _grade(self, call: _Call, job: ProgramJob) -> Reward:
        if job.program is None:
            return Reward(score=0.0)
        with call.free:
            if call.late.is_set():
                return Reward(score=0.0, answer=job.program, error=_LATE, infrastructure=True)
            try:
                run = self._run(call.launcher, job.program, job.tests)
            except UnusableTest as error:
                return Reward(score=0.0, answer=job.program, error=str(error))
            except SandboxError as error:
                said = _LATE if call.late.is_set() else str(error)
                return Reward(score=0.0, answer=job.program, error=said, infrastructure=True)
            if call.late.is_set():  # what is ended from outside may look like a program that fails
                return Reward(score=0.0, answer=job.program, error=_LATE, infrastructure=True)
        passed, total = run.passed, run.total
        score = float(passed == total) if self._rules.stop_at_failure else passed / total
        return Reward(score=score, answer=job.program, feedback=run.feedback)

    def _run(self, launcher: Launcher, program: str, tests: ProgramTests) -> Run:
        """The tests of a program, from the beginning again if the machine fails once."""
        try:
            return run_job(launcher, program, tests, self._rules)
        except SandboxError:
            return run_job(launcher, program, tests, self._rules)

    def __getstate__(self) -> dict[str, Any]:
        return self._options  # processes cannot be pickled; the copy starts its own

    def __setstate__(self, options: dict[str, Any]) -> None:
        self.__init__(**options)


class _Call:
    """The programs of one call of ``grade_batch``, some of them begun before it.

    Attributes:
        launcher: starts their sandboxes.
        pool: a thread for each program that runs.
        free: how many more may run; one is kept back until the caller waits for them.
        late: set when the time of the call is over.
        begun: what has been begun, by program and tests.
        tests: those of what has been begun, which are known by their place in memory: no others may get it.
    """

    def __init__(self, launcher: Launcher, workers: int) -> None:
        self.launcher = launcher
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="code-grader")
        self.free = threading.Semaphore(max(1, workers - 1))
        self.late = threading.Event()
        self.begun: defaultdict[_Key, deque[Future[Reward]]] = defaultdict(deque)
        self.tests: list[ProgramTests] = []

    def taken(self, job: ProgramJob) -> Future[Reward] | None:
        """The verdict that was begun for such a program, once for each time that it was."""
        begun = self.begun[_key(job)]
        return begun.popleft() if begun else None

    def drop(self) -> bool:
        """Give up what nobody has asked for; whether some of it may be running."""
        left = [future for begun in self.begun.values() for future in begun]
        self.begun.clear()
        running = [future for future in left if not (future.cancel() or future.done())]
        return bool(running)


_Key = tuple[str | None, int]


def _key(job: ProgramJob) -> _Key:
    return job.program, id(job.tests)  # tests may hold lists, which cannot be looked up


def _stop(call: _Call) -> None:
    """Time is over: without their sandboxes the threads end by themselves."""
    call.late.set()
    call.launcher.close()


def _close(launcher: Launcher, owner: int) -> None:
    if os.getpid() == owner:  # a forked child holds a copy, but the process is its parent's
        launcher.close()


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise TaskError(f"grader {name} must lie between {low:g} and {high:g}, got {value}")
