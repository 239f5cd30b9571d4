"""Ending what a program has left behind, and waiting for children with a clock."""

from __future__ import annotations

import os
import select
import signal
import time

# What signal is made of: signal itself makes enumerations of all that it is given and gives back.
from _signal import SIG_DFL  # type: ignore[import-not-found]
from _signal import signal as set_handler  # type: ignore[import-not-found]
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Literal, Self

# How the processes of a sandbox are told from others:
# "namespace": all that the first process of a PID namespace can see;
# "user": all of a user that nobody else runs as;
# "family": all descendants of this process.
Scope = Literal["namespace", "user", "family"]


_MAX_DESCRIPTOR = 4096  # past all that the sandboxes of a launcher have together


def readable(descriptor: int) -> bool:
    """Whether something can be read from it, or its other end has gone."""
    poll = select.poll()  # not select, which knows no descriptor above 1,023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class ChildWatch:
    """Wakes up when a child ends; the one place that handles SIGCHLD in a process.

    Args:
        also: a descriptor that wakes it up when it is readable.
    """

    def __init__(self, also: int) -> None:
        self._also = also
        self._read, self._write = os.pipe()
        self._poll = select.poll()
        for descriptor in (self._read, also):
            self._poll.register(descriptor, select.POLLIN)
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def __enter__(self) -> Self:
        set_handler(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        unwatch()
        os.close(self._read)
        os.close(self._write)

    def wait(self, pid: int, timeout_s: float | None) -> int | None:
        """Wait for one child and return its exit status, negative for a signal.

        None when the time is up, or the other descriptor is readable.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            for descriptor, _ in self._poll.poll(None if left is None else 1000 * left):
                if descriptor == self._also:
                    return None
                os.read(self._read, 4096)


def unwatch() -> None:
    """Let nothing happen when a child ends, as in a process that has just been started."""
    signal.set_wakeup_fd(-1)
    set_handler(signal.SIGCHLD, SIG_DFL)


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler has to be there for the wake-up descriptor to be written."""


def close_others(keep: Iterable[int]) -> None:
    """Close every descriptor besides the first three and these."""
    first = 3
    for descriptor in sorted(keep):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, _MAX_DESCRIPTOR)


def end_all(scope: Scope) -> None:
    """Kill every other process of this sandbox and wait until none is left."""
    while True:
        if scope == "family":
            for pid in _stopped(os.getpid()):
                _kill(pid)
        else:
            _kill(-1)  # every process that this one may signal, and not itself
        if not _reap_one():
            return


def end_user(user: int) -> None:
    """Kill every process of a user. Needs root; done by a child, so that only that user is hit."""
    pid = os.fork()
    if pid == 0:
        with suppress(OSError):
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            _kill(-1)
        os._exit(0)
    os.waitpid(pid, 0)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _reap_one() -> bool:
    """Wait for any child; False when there is none."""
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        return False
    return True


def descendants(root: int) -> list[int]:
    """Processes below ``root``, from /proc."""
    if not os.path.isdir("/proc/self"):
        return []
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError):
                parents[int(entry)] = int(state(f"/proc/{entry}")[1])
    below, found = {root}, []
    while new := [pid for pid, parent in parents.items() if parent in below and pid not in below]:
        below.update(new)
        found.extend(new)
    return found


def state(folder: str) -> list[str]:
    """What ``stat`` in a folder of /proc says of a process or thread, from its state on.

    Raises:
        OSError: it has ended.
    """
    with open(f"{folder}/stat", errors="replace") as file:
        return file.read().rpartition(")")[2].split()  # a name may hold anything


def _stopped(root: int) -> list[int]:
    """Processes below ``root``, all of them stopped so that they cannot multiply."""
    stopped: set[int] = set()
    while new := set(descendants(root)) - stopped:
        for pid in new:
            with suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= new
    return list(stopped)
