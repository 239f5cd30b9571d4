"""Pool of worker processes with hard time-outs, for grading that may hang, crash or eat memory.

A signal-based time-out works in the main thread only and cannot stop native code; a thread
cannot be stopped at all; ``concurrent.futures`` cannot kill the one task that hangs. So every
worker is a program of its own on one end of a socket, and one that is lost is replaced.

What a request may cost is counted in processor time, because a verdict must not depend on what
else the machine does. The worker limits that itself, by a timer of the kernel that ends native code
too and needs nobody to watch. A limit of wall-clock time stands far behind it: whoever runs into
that one, or is killed by something else, was let down by the machine. Such a request is tried once
more, on a worker of its own, and then is an infrastructure error and no verdict.

The worker program is a file that the same interpreter runs:

* ``argv[1]`` is the file descriptor of its end of the socket, ``argv[2]`` the seconds of processor
  time for one message, after which it has to end by ``SIGPROF``;
* it sends ``ready`` once its imports are done, or one line that says why it cannot work;
* then it answers each message with one message, until the socket is closed.

It is started as a plain program, not through ``multiprocessing``: ``fork`` is unsafe once torch
has started its threads, and ``spawn`` would import the training script, and torch with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

# Imports take a second or two of processor time, but disk and processors may be busy with other work.
START_TIMEOUT_S = 600.0
# What kills a worker from outside: a system without memory, an operator, a limit of the whole process.
# What an answer can do to a worker ends by another signal or with an exit code.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGXCPU)
# Of the workers that are killed from outside before they are ready, one after another.
_START_TRIES = 3


class WorkerStartError(RuntimeError):
    """A worker cannot start: an installation at fault, not a request. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one request."""

    reply: bytes | None
    """The worker's message; None when it was killed or died."""
    error: str | None
    """Why there is no reply; None when there is one."""
    infrastructure: bool = False
    """Whether the machine was at fault, twice, and not the request."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may take."""

    cpu_s: float
    """Processor time of one request, in seconds."""
    wall_s: float
    """Wall-clock time of one request, in seconds, far above the processor time."""

    def __post_init__(self) -> None:
        if not 0 < self.cpu_s < float("inf"):
            raise ValueError(f"cpu_s must be a positive number of seconds, got {self.cpu_s}")
        if not self.cpu_s < self.wall_s < float("inf"):
            raise ValueError(f"wall_s must be above cpu_s={self.cpu_s:g} and finite, got {self.wall_s}")


class _Worker:
    """One process and what it is doing.

    Attributes:
        ready: whether it has finished its imports.
        fresh: whether it has had no request yet.
        job: index of the request it works on; None when it has none.
        deadline: when it is late with what it is doing, on the monotonic clock.
    """

    def __init__(self, program: Path, limits: Limits) -> None:
        self.connection, child_end = Pipe(duplex=True)
        with child_end:
            fd = child_end.fileno()
            # -P: the program's own folder must not come first on the path, where a module
            # of the project may be named like one of the standard library.
            command = [sys.executable, "-P", str(program), str(fd), str(limits.cpu_s)]
            quiet = subprocess.DEVNULL
            self._process = subprocess.Popen(command, pass_fds=[fd], stdin=quiet, stdout=quiet, stderr=quiet)
        self.ready, self.fresh = False, True
        self.job: int | None = None
        self.deadline = time.monotonic() + START_TIMEOUT_S

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def give(self, job: int, request: bytes, wall_s: float) -> None:
        self.job, self.fresh, self.deadline = job, False, time.monotonic() + wall_s
        with suppress(OSError):  # it just died: reading finds the socket closed and reports it
            self.connection.send_bytes(request)

    def kill(self) -> int:
        """End it; returns its exit code."""
        self._process.kill()
        self.connection.close()
        return self._process.wait()


def _kill_all(workers: list[_Worker], owner: int) -> None:
    # A forked child holds a copy of the list, but the workers are its parent's.
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()
    workers.clear()


class WorkerPool:
    """Runs requests on killable worker processes.

    Workers start with the first request and stay for later ones. They end with ``close``, with
    the pool or with the interpreter, whichever comes first.

    Args:
        program: the worker program, see the head of this module.
        workers: number of processes at most, at least 1.
        limits: what one request may take.
    """

    def __init__(self, *, program: Path, workers: int, limits: Limits) -> None:
        self._program, self._limit, self._limits = program, workers, limits
        self._lock = threading.Lock()
        self._begin()

    def run(self, requests: Sequence[bytes]) -> list[Outcome]:
        """One outcome per request, in order. A request that kills its worker costs only itself.

        Raises:
            WorkerStartError: a worker cannot be started.
        """
        with self._lock:
            if os.getpid() != self._owner:  # forked since: the sockets belong to the parent
                self._finalizer.detach()
                self._begin()
            try:
                return _Batch(requests, self._program, self._limits).run(self._workers, self._limit)
            except BaseException:
                # A reply that is still on its way must never be read as the next request's.
                self.close()
                raise

    def close(self) -> None:
        """End all workers. The pool stays usable: new ones start when they are needed."""
        _kill_all(self._workers, self._owner)

    def _begin(self) -> None:
        self._workers: list[_Worker] = []
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._owner)


class _Batch:
    """The requests of one call, on their way through the workers."""

    def __init__(self, requests: Sequence[bytes], program: Path, limits: Limits) -> None:
        self._requests, self._program, self._limits = requests, program, limits
        self._waiting = deque(range(len(requests)))
        # Requests for which the machine failed once. Each freed the place of a worker, and only the new
        # one there takes it.
        self._again: deque[int] = deque()
        self._tried: set[int] = set()
        self._outcomes: dict[int, Outcome] = {}
        self._busy: dict[Connection, _Worker] = {}
        self._failed_starts = 0

    def run(self, workers: list[_Worker], limit: int) -> list[Outcome]:
        for worker in [w for w in workers if not w.alive]:  # died while idle: no request's fault
            workers.remove(worker)
            worker.kill()
        for worker in workers:
            self._next(worker)
        while len(self._outcomes) < len(self._requests):
            starting = sum(not w.ready for w in workers)
            while len(workers) < limit and starting < len(self._waiting) + len(self._again):
                workers.append(_Worker(self._program, self._limits))
                self._next(workers[-1])
                starting += 1
            soonest = min(w.deadline for w in self._busy.values())
            for connection in wait(list(self._busy), timeout=max(0.0, soonest - time.monotonic())):
                assert isinstance(connection, Connection)
                worker = self._busy.pop(connection)
                if self._read(worker):
                    self._next(worker)
                else:
                    self._lose(worker, workers)
            for worker in [w for w in self._busy.values() if w.deadline <= time.monotonic()]:
                del self._busy[worker.connection]
                self._late(worker, workers)
        return [self._outcomes[i] for i in range(len(self._requests))]

    def _next(self, worker: _Worker) -> None:
        """Give the worker its next request, or wait for it to be ready."""
        worker.job = None
        queue = self._again if self._again and worker.fresh else self._waiting
        if worker.ready and queue:
            job = queue.popleft()
            worker.give(job, self._requests[job], self._limits.wall_s)
        if worker.job is not None or not worker.ready:
            self._busy[worker.connection] = worker

    def _read(self, worker: _Worker) -> bool:
        """Take one message; False when the worker is dead.

        Raises:
            WorkerStartError: it says that it cannot work.
        """
        try:
            message = worker.connection.recv_bytes()
        except (EOFError, OSError):
            return False
        if worker.job is not None:
            self._outcomes[worker.job] = Outcome(reply=message, error=None)
        elif message == b"ready":
            worker.ready, self._failed_starts = True, 0
        else:
            raise _cannot_start(message.decode(errors="replace"))
        return True

    def _lose(self, worker: _Worker, workers: list[_Worker]) -> None:
        """A worker has died: by its request, or by something else."""
        workers.remove(worker)
        code = worker.kill()
        killed = -code in _FROM_OUTSIDE
        if worker.job is None:
            self._failed_starts += 1
            if not killed or self._failed_starts >= _START_TRIES:
                raise _cannot_start(f"worker died (exit code {code})")
        elif killed:
            self._blame_machine(worker.job, f"worker killed from outside ({signal.Signals(-code).name})")
        else:
            over = f"took more than {self._limits.cpu_s:g} s of processor time"
            error = over if code == -signal.SIGPROF else f"worker died (exit code {code})"
            self._outcomes[worker.job] = Outcome(reply=None, error=error)

    def _late(self, worker: _Worker, workers: list[_Worker]) -> None:
        """A worker has had its wall-clock time."""
        workers.remove(worker)
        worker.kill()
        if worker.job is None:
            raise _cannot_start(f"not ready after {START_TIMEOUT_S:g} s")
        self._blame_machine(worker.job, f"no answer within {self._limits.wall_s:g} s of wall-clock time")

    def _blame_machine(self, job: int, error: str) -> None:
        """Try a request once more; at the second time there is no verdict on it."""
        if job in self._tried:
            self._outcomes[job] = Outcome(reply=None, error=f"{error}, twice", infrastructure=True)
        else:
            self._tried.add(job)
            self._again.append(job)


def _cannot_start(reason: str) -> WorkerStartError:
    return WorkerStartError(f"cannot start a grading worker: {reason}")
