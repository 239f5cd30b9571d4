"""Limits of time that do not depend on how busy the machine is.

What counts is the time that a program itself spends: the processor time of all its processes, and the
time that it sleeps or waits of its own will. The time that it waits for a processor does not count; only
when that goes on far too long is it stopped, and then the machine is to blame.

A program sleeps while none of its threads runs, is ready to run, or waits for a disk. It is looked at a few
times a second; the time between two looks counts as slept, less the processor time used in it, if it was
found asleep both times. Where the system does not tell what threads do (no /proc), sleeping does not count.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from . import wire
from .processes import ChildWatch, descendants, readable, state

_LOOK_S = 0.25
_SHORTEST_LOOK_S = 0.01
# A state of a thread in /proc that says that it neither runs nor is kept from running.
_RESTING = frozenset("STtZXI")
# What is asked of a meter: all, or only what is used, for which nothing has to be looked for in /proc.
_ALL, _USED = b"?", b"u"
_HANDED = b"p"
_ANSWER = struct.Struct("!d?")
_ANSWER_TIMEOUT_S = 60.0


class Starved(Exception):
    """A program got too little of the machine to be judged. The message says how little."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a meter shows."""

    used_s: float
    """Processor time of a program since it was started."""
    asleep: bool
    """Whether all of it sleeps or waits."""


class Meter:
    """Measures what this process has started: what has ended, and a child that may be alive.

    Args:
        alone: whether the child can have no children itself.
    """

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone

    def read(self, pid: int | None, *, used_only: bool = False) -> Reading:
        """What all together have used by now; ``pid`` is the child that has not been waited for."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s = ended.ru_utime + ended.ru_stime
        if pid is None:
            return Reading(used_s=used_s, asleep=False)
        alive = [pid] if self._alone else descendants(os.getpid())
        for number in alive:
            with suppress(OSError):  # it has just ended, or is not to be measured on this system
                used_s += time.clock_gettime(_processor_clock(number))
        asleep = not used_only and bool(alive) and all(map(_rests, alive))
        return Reading(used_s=used_s, asleep=asleep)


def _processor_clock(pid: int) -> int:
    """The kernel's number of the clock that counts a process's processor time, on Linux."""
    return ~pid << 3 | 2


def _rests(pid: int) -> bool:
    tasks = f"/proc/{pid}/task"
    try:
        states = [state(f"{tasks}/{task}")[0] for task in os.listdir(tasks)]
    except (OSError, IndexError):  # it has just ended, or there is no /proc
        return False
    return bool(states) and _RESTING.issuperset(states)


class Stopwatch:
    """Measures one step of a program, such as a test.

    Args:
        read: reads the meter.
        first: what it showed at the beginning.
        seconds: time that the program itself may take.
        wall_s: time by the clock after which the machine is to blame.

    Attributes:
        taken_s: what the program has taken of ``seconds``, at the last look.
        next_look: when to look again, on the monotonic clock.
    """

    def __init__(self, read: Callable[[], Reading], first: Reading, *, seconds: float, wall_s: float) -> None:
        self._read, self._seconds, self._wall_s = read, seconds, wall_s
        self._began = self._looked = time.monotonic()
        self._first_used_s = self._used_s = first.used_s
        self._asleep, self._slept_s, self.taken_s = False, 0.0, 0.0
        self._plan()

    def look(self) -> bool:
        """Take the time; whether there is some left.

        Raises:
            Starved: the clock has run far past what the program could take.
        """
        reading, now = self._read(), time.monotonic()
        passed_s = min(now - self._looked, 2 * _LOOK_S)  # more: this process was kept from looking
        if self._asleep and reading.asleep:
            self._slept_s += max(0.0, passed_s - (reading.used_s - self._used_s))
        self._asleep, self._used_s, self._looked = reading.asleep, reading.used_s, now
        self.taken_s = self._used_s - self._first_used_s + self._slept_s
        if self.taken_s >= self._seconds:
            return False
        if now - self._began >= self._wall_s:
            got = f"{self.taken_s:.1f} of its {self._seconds:g} s"
            raise Starved(f"the machine is too busy: in {self._wall_s:g} s the program got {got}")
        self._plan()
        return True

    def _plan(self) -> None:
        left_s = self._seconds - self.taken_s
        self.next_look = self._looked + min(max(left_s, _SHORTEST_LOOK_S), _LOOK_S)


def wait_for(pid: int, watch: ChildWatch, stopwatch: Stopwatch) -> int | None:
    """Wait for a child and return its exit status; None when its time is up or the other side has gone.

    Raises:
        Starved: see ``Stopwatch``.
    """
    while True:
        left_s = max(0.0, stopwatch.next_look - time.monotonic())
        status = watch.wait(pid, left_s)
        if status is not None or time.monotonic() < stopwatch.next_look or not stopwatch.look():
            return status


def serve_meter(questions: socket.socket, pid: int, *, alone: bool) -> None:
    """Answer what a ``RemoteMeter`` asks about a child, until that has ended or the other side has gone.

    First it is handed the child itself, if that is all there is to measure, so that it has to ask less.
    """
    with suppress(OSError):
        _hand_over(questions, pid if alone else None)
    meter = Meter(alone=alone)
    with ChildWatch(questions.fileno()) as watch, suppress(OSError):
        while watch.wait(pid, None) is None:
            if not (question := questions.recv(1)):
                return
            reading = meter.read(pid, used_only=question == _USED)
            questions.sendall(_ANSWER.pack(reading.used_s, reading.asleep))


def _hand_over(questions: socket.socket, pid: int | None) -> None:
    """Send a descriptor of a process, or word that there is none."""
    try:
        descriptor = os.pidfd_open(pid) if pid is not None and hasattr(os, "pidfd_open") else None
    except OSError:  # an old kernel
        descriptor = None
    if descriptor is None:
        questions.sendall(_HANDED)
        return
    socket.send_fds(questions, [_HANDED], [descriptor])
    os.close(descriptor)


class RemoteMeter:
    """The meter of a program in a sandbox, read from outside. Use it as a context manager.

    What a single process has used this side reads from the kernel's clock by itself: a program has a step for
    each of its tests, and to ask takes longer than a short test.

    Args:
        questions: its other end is served by ``serve_meter``.
    """

    def __init__(self, questions: socket.socket) -> None:
        self._questions = questions
        self._last = Reading(used_s=0.0, asleep=False)
        self._process: int | None = None
        self._clock, self._met = 0, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._questions.close()
        if self._process is not None:
            os.close(self._process)

    def read(self, *, used_only: bool = False) -> Reading:
        """As ``Meter.read``; what it said last when the program has ended.

        Raises:
            Starved: no answer comes.
        """
        try:
            if not self._met:
                self._questions.settimeout(_ANSWER_TIMEOUT_S)
                self._meet()
            if used_only and self._process is not None:
                self._last = Reading(used_s=self._used_s(self._process), asleep=False)
                return self._last
            self._questions.sendall(_USED if used_only else _ALL)
            answer = self._questions.recv(_ANSWER.size, socket.MSG_WAITALL)
        except TimeoutError:
            raise Starved(f"the sandbox has not answered for {_ANSWER_TIMEOUT_S:g} s") from None
        except OSError:
            answer = b""
        if len(answer) == _ANSWER.size:
            used_s, asleep = _ANSWER.unpack(answer)
            self._last = Reading(used_s=used_s, asleep=asleep)
            return self._last
        return Reading(used_s=self._last.used_s, asleep=False)

    def _meet(self) -> None:
        """Take what ``serve_meter`` hands over."""
        self._met = True
        _, descriptors, _, _ = socket.recv_fds(self._questions, len(_HANDED), 1)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            if (number := _number_here(descriptor)) > 0:
                self._process, self._clock = descriptor, _processor_clock(number)
            else:
                os.close(descriptor)

    def _used_s(self, process: int) -> float:
        """What the process has used.

        Raises:
            OSError: it has ended, and its number may be that of another one.
        """
        used_s = time.clock_gettime(self._clock)
        with suppress(PermissionError):  # it is there
            signal.pidfd_send_signal(process, 0)
        return used_s


def _number_here(process: int) -> int:
    """The number that this process knows another one by, given its descriptor; at most 0 if by none."""
    with suppress(OSError), open(f"/proc/self/fdinfo/{process}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line[4:])
    return 0


def read_all(meters: list[RemoteMeter], *, used_only: bool = False) -> Reading:
    """Several programs that work on one thing: it sleeps when all of them do."""
    readings = [meter.read(used_only=used_only) for meter in meters]
    return Reading(used_s=sum(r.used_s for r in readings), asleep=all(r.asleep for r in readings))


def patience(stopwatch: Stopwatch, channel: socket.socket) -> wire.Patience:
    """Wait for a message of a program as long as it has time.

    What it has sent is received before its time is looked at: it may have been here for a while.

    Raises:
        wire.Late: while waiting, its time is up.
        Starved: see ``Stopwatch``.
    """

    def wait_s() -> float:
        left_s = stopwatch.next_look - time.monotonic()
        if left_s > 0:
            return left_s
        if not readable(channel.fileno()) and not stopwatch.look():
            raise wire.Late
        return max(_SHORTEST_LOOK_S, stopwatch.next_look - time.monotonic())

    return wait_s
