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
  time for one message, after which it has to end by ``SIGPROF``; what follows is for itself;
* it sends ``ready`` once its imports are done, or one line that says why it cannot work;
* then it answers each message with one message, until the socket is closed.

It is started as a plain program, not through ``multiprocessing``: ``fork`` is unsafe once torch
has started its threads, and ``spawn`` would import the training script, and torch with it.
"""

from __future__ import annotations

import math
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

    def __init__(self, program: Path, arguments: Sequence[str], limits: Limits) -> None:
        self.connection, child_end = Pipe(duplex=True)
        with child_end:
            fd = child_end.fileno()
            # -P: the program's own folder must not come first on the path, where a module
            # of the project may be named like one of the standard library.
            command = [sys.executable, "-P", str(program), str(fd), str(limits.cpu_s), *arguments]
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
        arguments: further ones of the program.
    """

    def __init__(self, *, program: Path, workers: int, limits: Limits, arguments: Sequence[str] = ()) -> None:
        self._program, self._limit, self._limits, self._arguments = program, workers, limits, arguments
        self._lock = threading.Lock()
        self._begin()

    def begin(self, requests: Sequence[bytes]) -> None:
        """Work on requests that ``run`` will be asked about, beside what the caller does.

        On one worker fewer than otherwise, because the caller needs a core. What goes wrong is for ``run`` to
        say.
        """
        with self._lock:
            self._check_owner()
            if self._ahead is None:
                self._ahead = _Ahead(self._batch(), self._workers, self._limit)
            self._ahead.batch.add(requests)

    def run(self, requests: Sequence[bytes], *, until: float = math.inf) -> list[Outcome]:
        """One outcome per request, in order. A request that kills its worker costs only itself.

        Equal requests are worked on once; of those begun before, the outcome may be there already.

        Args:
            requests: in the order in which they are begun.
            until: on the monotonic clock; what has no outcome then gets an infrastructure error.

        Raises:
            WorkerStartError: a worker cannot be started.
        """
        with self._lock:
            self._check_owner()
            try:
                if self._ahead is None:
                    batch = self._batch()
                    places = batch.add(requests)
                    batch.end(until)
                    batch.run(self._workers, self._limit)
                else:
                    batch = self._ahead.batch
                    places = batch.add(requests)
                    self._ahead.wait(until)
                    self._ahead = None
                return [batch.outcomes[place] for place in places]
            except BaseException:
                # A reply that is still on its way must never be read as the next request's.
                self.close()
                raise

    def close(self) -> None:
        """End all workers. The pool stays usable: new ones start when they are needed."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and os.getpid() == self._owner:
            ahead.stop()
        _kill_all(self._workers, self._owner)

    def _batch(self) -> _Batch:
        return _Batch(self._program, self._arguments, self._limits)

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:  # forked since: the sockets belong to the parent
            self._finalizer.detach()
            self._begin()

    def _begin(self) -> None:
        self._workers: list[_Worker] = []
        self._ahead: _Ahead | None = None
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._owner)


class _Ahead:
    """A batch that is worked on in a thread, which nearly always waits: the work is that of other processes.

    Args:
        batch: may grow until it is waited for.
        workers: do the work.
        limit: how many there may be.
    """

    def __init__(self, batch: _Batch, workers: list[_Worker], limit: int) -> None:
        self.batch = batch
        self._error: BaseException | None = None
        # A daemon: an interpreter that ends takes its workers along and waits for no verdict.
        self._thread = threading.Thread(
            target=self._work, args=(workers, limit), name="grading-workers", daemon=True
        )
        self._thread.start()

    def _work(self, workers: list[_Worker], limit: int) -> None:
        try:
            self.batch.run(workers, limit)
        except BaseException as error:
            self._error = error

    def wait(self, until: float) -> None:
        """Nothing will be added: return when all is done, or the time has come.

        Raises:
            WorkerStartError: a worker cannot be started.
        """
        self.batch.end(until)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Return at once, whatever is left."""
        self.batch.stop()
        self._thread.join()


class _Batch:
    """The requests of one call, on their way through the workers; ``add`` and ``end`` are for other threads.

    Attributes:
        outcomes: by the place of a request.
    """

    def __init__(self, program: Path, arguments: Sequence[str], limits: Limits) -> None:
        self._program, self._arguments, self._limits = program, arguments, limits
        self._until = math.inf
        self._requests: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._waiting: deque[int] = deque()
        # Requests for which the machine failed once. Each freed the place of a worker, and only the new
        # one there takes it.
        self._again: deque[int] = deque()
        self._tried: set[int] = set()
        self.outcomes: dict[int, Outcome] = {}
        self._busy: dict[Connection, _Worker] = {}
        self._failed_starts = 0
        self._grows, self._stopped = True, False
        # What is added from another thread wakes the one that works.
        self._bell, self._ringer = Pipe(duplex=False)

    def add(self, requests: Sequence[bytes]) -> list[int]:
        """Put further requests at the end; returns the places of all of them."""
        for request in requests:
            if request not in self._places:
                self._places[request] = len(self._requests)
                self._requests.append(request)
                self._waiting.append(self._places[request])
        self._ring()
        return [self._places[request] for request in requests]

    def end(self, until: float) -> None:
        """No further request will come, and there is time until then."""
        self._until, self._grows = until, False
        self._ring()

    def stop(self) -> None:
        """Leave everything as it is."""
        self._stopped = True
        self._ring()

    def _ring(self) -> None:
        with suppress(OSError):  # whoever worked has ended, by a failure
            self._ringer.send_bytes(b"")

    def run(self, workers: list[_Worker], limit: int) -> None:
        """Work until every request has its outcome."""
        try:
            for worker in [w for w in workers if not w.alive]:  # died while idle: no request's fault
                workers.remove(worker)
                worker.kill()
            while not self._stopped and (self._grows or len(self.outcomes) < len(self._requests)):
                if time.monotonic() >= self._until:
                    self._give_up(workers)
                    break
                self._employ(workers, max(1, limit - 1) if self._grows else limit)
                self._listen(workers)
        finally:
            self._bell.close()
            self._ringer.close()

    def _employ(self, workers: list[_Worker], most: int) -> None:
        """Give the idle something to do, and start as many as there is work for."""
        for worker in workers:
            if worker.connection not in self._busy and len(self._busy) < most:
                self._next(worker)
        starting = sum(not w.ready for w in workers)
        while len(workers) < most and starting < len(self._waiting) + len(self._again):
            workers.append(_Worker(self._program, self._arguments, self._limits))
            self._next(workers[-1])
            starting += 1

    def _listen(self, workers: list[_Worker]) -> None:
        """Wait until a worker has something to say, one is late, or the bell rings."""
        soonest = min([self._until, *(w.deadline for w in self._busy.values())])
        left_s = None if soonest == math.inf else max(0.0, soonest - time.monotonic())
        for connection in wait([*self._busy, self._bell], timeout=left_s):
            assert isinstance(connection, Connection)
            if connection is self._bell:
                self._bell.recv_bytes()
                continue
            worker = self._busy.pop(connection)
            if self._read(worker):
                self._next(worker)
            else:
                self._lose(worker, workers)
        for worker in [w for w in self._busy.values() if w.deadline <= time.monotonic()]:
            del self._busy[worker.connection]
            self._late(worker, workers)

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
            self.outcomes[worker.job] = Outcome(reply=message, error=None)
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
            self.outcomes[worker.job] = Outcome(reply=None, error=error)

    def _late(self, worker: _Worker, workers: list[_Worker]) -> None:
        """A worker has had its wall-clock time."""
        workers.remove(worker)
        worker.kill()
        if worker.job is None:
            raise _cannot_start(f"not ready after {START_TIMEOUT_S:g} s")
        self._blame_machine(worker.job, f"no answer within {self._limits.wall_s:g} s of wall-clock time")

    def _give_up(self, workers: list[_Worker]) -> None:
        """There is no time left: what has no outcome gets none, and who works on it has to go."""
        for worker in [w for w in self._busy.values() if w.job is not None]:
            workers.remove(worker)
            worker.kill()
        late = Outcome(reply=None, error="there was no time left for it", infrastructure=True)
        self.outcomes = {place: self.outcomes.get(place, late) for place in range(len(self._requests))}

    def _blame_machine(self, job: int, error: str) -> None:
        """Try a request once more; at the second time there is no verdict on it."""
        if job in self._tried:
            self.outcomes[job] = Outcome(reply=None, error=f"{error}, twice", infrastructure=True)
        else:
            self._tried.add(job)
            self._again.append(job)


def _cannot_start(reason: str) -> WorkerStartError:
    return WorkerStartError(f"cannot start a grading worker: {reason}")
