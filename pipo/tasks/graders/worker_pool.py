"""Worker processes that can be killed one by one, for work that may hang, crash or eat memory.

A signal-based time-out works in the main thread only and cannot stop native code; a thread
cannot be stopped at all; ``concurrent.futures`` cannot kill the one task that hangs. So every
worker is a program of its own on one end of a socket, and a late one is killed and replaced.

The worker program is a file that the same interpreter runs:

* ``argv[1]`` is the file descriptor of its end of the socket, ``argv[2]`` the seconds of work
  on one message after which it has to end itself, in case nobody is left to kill it;
* it sends ``ready`` once its imports are done, or one line that says why it cannot work;
* then it answers each message with one message, until the socket is closed.

It is started as a plain program, not through ``multiprocessing``: ``fork`` is unsafe once torch
has started its threads, and ``spawn`` would import the training script, and torch with it.
"""

from __future__ import annotations

import os
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

# Imports from a cold or busy disk can be slow; this clock is not the one of an answer.
START_TIMEOUT_S = 120.0
# How much later than its time-out a worker ends itself: only when its parent could not.
ORPHAN_GRACE_S = 10.0


class WorkerStartError(RuntimeError):
    """A worker cannot start: an installation at fault, not a request. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one request.

    Attributes:
        reply: the worker's message; None when it was killed or died.
        error: why there is no reply; None when there is one.
    """

    reply: bytes | None
    error: str | None


class _Worker:
    """One process and what it is doing.

    Attributes:
        ready: whether it has finished its imports.
        job: index of the request it works on; None when it has none.
        deadline: when it is late with what it is doing, on the monotonic clock.
    """

    def __init__(self, program: Path, timeout_s: float) -> None:
        self.connection, child_end = Pipe(duplex=True)
        with child_end:
            fd = child_end.fileno()
            # -P: the program's own folder must not come first on the path, where a module
            # of the project may be named like one of the standard library.
            command = [sys.executable, "-P", str(program), str(fd), str(timeout_s + ORPHAN_GRACE_S)]
            quiet = subprocess.DEVNULL
            self._process = subprocess.Popen(command, pass_fds=[fd], stdin=quiet, stdout=quiet, stderr=quiet)
        self.ready = False
        self.job: int | None = None
        self.deadline = time.monotonic() + START_TIMEOUT_S

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def give(self, job: int, request: bytes, timeout_s: float) -> None:
        self.job, self.deadline = job, time.monotonic() + timeout_s
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
        timeout_s: seconds of wall-clock time that one request may take.
    """

    def __init__(self, *, program: Path, workers: int, timeout_s: float) -> None:
        self._program, self._limit, self._timeout_s = program, workers, timeout_s
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
                return _Batch(requests).run(self._program, self._workers, self._limit, self._timeout_s)
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

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = requests
        self._waiting = deque(range(len(requests)))
        self._outcomes: dict[int, Outcome] = {}
        self._busy: dict[Connection, _Worker] = {}

    def run(self, program: Path, workers: list[_Worker], limit: int, timeout_s: float) -> list[Outcome]:
        for worker in [w for w in workers if not w.alive]:  # died while idle: no request's fault
            workers.remove(worker)
            worker.kill()
        for worker in workers:
            self._next(worker, timeout_s)
        while len(self._outcomes) < len(self._requests):
            starting = sum(not w.ready for w in workers)
            while len(workers) < limit and starting < len(self._waiting):
                workers.append(_Worker(program, timeout_s))
                self._next(workers[-1], timeout_s)
                starting += 1
            soonest = min(w.deadline for w in self._busy.values())
            for connection in wait(list(self._busy), timeout=max(0.0, soonest - time.monotonic())):
                assert isinstance(connection, Connection)
                worker = self._busy.pop(connection)
                if (problem := self._read(worker)) is None:
                    self._next(worker, timeout_s)
                else:
                    self._lose(worker, workers, problem)
            for worker in [w for w in self._busy.values() if w.deadline <= time.monotonic()]:
                del self._busy[worker.connection]
                limit_s = timeout_s if worker.ready else START_TIMEOUT_S
                self._lose(worker, workers, f"timed out after {limit_s:g} s")
        return [self._outcomes[i] for i in range(len(self._requests))]

    def _next(self, worker: _Worker, timeout_s: float) -> None:
        """Give the worker its next request, or wait for it to be ready."""
        worker.job = None
        if worker.ready and self._waiting:
            job = self._waiting.popleft()
            worker.give(job, self._requests[job], timeout_s)
        if worker.job is not None or not worker.ready:
            self._busy[worker.connection] = worker

    def _read(self, worker: _Worker) -> str | None:
        """Take one message; returns what is wrong, None when nothing is."""
        try:
            message = worker.connection.recv_bytes()
        except (EOFError, OSError):
            return "worker died"
        if worker.job is not None:
            self._outcomes[worker.job] = Outcome(reply=message, error=None)
        elif message == b"ready":
            worker.ready = True
        else:
            return message.decode(errors="replace")
        return None

    def _lose(self, worker: _Worker, workers: list[_Worker], problem: str) -> None:
        workers.remove(worker)
        code = worker.kill()
        if problem == "worker died":
            problem = f"{problem} (exit code {code})"
        if worker.job is None:
            raise WorkerStartError(f"cannot start a grading worker: {problem}")
        self._outcomes[worker.job] = Outcome(reply=None, error=problem)
