"""The process that forks sandboxes: small, single-threaded, holding nothing worth stealing.

It receives only sockets, never a program, an input or an expected output, and every sandbox is a
fork of the same state, so that nothing passes from one program to the next.

Each order is two bytes (service and slot) with two to four sockets: the lifeline first. The
lifeline is the sandbox's term: when its other end is shut down, everything in the sandbox is killed
and cleaned up, and this end closed, after one last message if the sandbox could not be set up.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

from . import filesystem, inside, kernel, processes, wire
from .settings import INT_DIGITS, Settings
from .system import System

# Modules that programs of this kind import most; loaded once here instead of in every program.
_COMMON = (
    "array bisect calendar collections copy dataclasses datetime decimal enum fractions functools "
    "heapq io itertools json math operator queue random re string struct textwrap threading "
    "time traceback typing"
)
_PARENT_CHECK_MS = 1000
# Descriptors: of a sandbox those of its watch and the lock on its user; besides, those of one that starts.
_OWN_DESCRIPTORS, _EACH_SANDBOXS = 64, 4


def import_common() -> None:
    """Import what programs import most."""
    for name in _COMMON.split():
        __import__(name)


def main(control_fd: int, settings_text: str) -> None:
    """Serve orders until the parent has gone.

    Args:
        control_fd: descriptor of the socket that orders come on.
        settings_text: see ``settings``.
    """
    settings = Settings.load(settings_text)
    parent = os.getppid()
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process has inherited
    sys.set_int_max_str_digits(INT_DIGITS)
    system = System(settings)
    inside.prepare(settings)
    launcher = _Launcher(settings, system, control)
    gc.freeze()
    wire.send(control, json.dumps(system.report).encode())
    while os.getppid() == parent and launcher.at_work:
        launcher.serve()
    launcher.clean_up()


@dataclass(frozen=True, kw_only=True)
class _Sandbox:
    """A sandbox in namespaces of its own."""

    first: int
    """Number of its first process."""
    ended: int
    """Descriptor that is readable when that process and all others in its namespace have ended."""
    lifeline: socket.socket
    """Readable when the term is over."""
    problem: int
    """End of a pipe that says why it could not be set up."""


class _Launcher:
    """Takes orders and watches over sandboxes; those without namespaces have keepers that do.

    Args:
        settings: of all sandboxes.
        system: what it allows.
        control: where orders come.

    Attributes:
        at_work: whether there is something to wait for.
    """

    def __init__(self, settings: Settings, system: System, control: socket.socket) -> None:
        self._settings, self._plan, self._users = settings, system.plan, system.users
        self._control = control
        self._watched: dict[int, _Sandbox] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._keepers, self.at_work = None, True
        if self._plan.namespaces:
            _allow_descriptors(_OWN_DESCRIPTORS + _EACH_SANDBOXS * settings.slots)
            self._itself = os.pidfd_open(os.getpid())  # readable to a sandbox once this process has ended
            folders = filesystem.private_folders(settings.paths)
            self._confined = inside.confinement(self._plan, settings, folders)
        else:
            from .keeper import Keepers  # what it imports is memory that each fork would copy

            self._keepers = Keepers(self._plan, settings)

    def serve(self) -> None:
        """Wait for a while, and do what there is to do."""
        for descriptor, _ in self._poll.poll(_PARENT_CHECK_MS):
            if descriptor == self._control.fileno():
                self._obey()
            elif descriptor in self._watched:  # and not ended by what was done for another one
                self._look(self._watched[descriptor], descriptor)
        if self._keepers is not None:
            self._keepers.wait(os.WNOHANG)

    def clean_up(self) -> None:
        """Remove what is on disk."""
        if self._keepers is not None:
            self._keepers.clean_up()

    def _obey(self) -> None:
        order, descriptors, _, _ = socket.recv_fds(self._control, 2, 4)
        if len(order) < 2:  # no more are to come: what is left is to clean up after the last ones
            self._poll.unregister(self._control)
            self._control.close()
            if self._keepers is not None:
                self._keepers.wait(0)
            self.at_work = bool(self._watched)
            return
        lifeline, channels = socket.socket(fileno=descriptors[0]), descriptors[1:]
        user = self._users[order[1]] if self._users else -1
        work = inside.Order(service=chr(order[0]), channels=channels, own_user=user)
        if self._keepers is not None:
            self._keepers.start(work, lifeline, self._control)
        else:
            self._start(work, lifeline)
        for channel in channels:
            os.close(channel)

    def _start(self, order: inside.Order, lifeline: socket.socket) -> None:
        problem, problem_end = os.pipe()
        try:
            pid = kernel.fork(self._plan.namespaces)
        except OSError as error:  # a limit on namespaces or processes: the next one may be luckier
            for descriptor in (problem, problem_end):
                os.close(descriptor)
            with lifeline, suppress(OSError):
                lifeline.sendall(f"{type(error).__name__}: {error}".encode())
            return
        if pid == 0:
            inside.run(
                self._plan,
                self._settings,
                self._confined,
                order,
                problem=problem_end,
                watched=lambda: not processes.readable(self._itself),
            )
        os.close(problem_end)
        sandbox = _Sandbox(first=pid, ended=os.pidfd_open(pid), lifeline=lifeline, problem=problem)
        for descriptor in (sandbox.ended, lifeline.fileno()):
            self._watched[descriptor] = sandbox
            self._poll.register(descriptor, select.POLLIN)

    def _look(self, sandbox: _Sandbox, descriptor: int) -> None:
        """End a sandbox whose term is over, or clean up after it has ended."""
        if descriptor != sandbox.ended:
            self._forget(descriptor)  # it stays readable
            os.kill(sandbox.first, signal.SIGKILL)
            return
        os.waitpid(sandbox.first, 0)
        self._forget(sandbox.ended)
        if sandbox.lifeline.fileno() in self._watched:
            self._forget(sandbox.lifeline.fileno())
        with sandbox.lifeline, suppress(OSError):
            sandbox.lifeline.sendall(os.read(sandbox.problem, 4096))
        os.close(sandbox.ended)
        os.close(sandbox.problem)
        self.at_work = bool(self._watched) or self._control.fileno() >= 0

    def _forget(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._watched[descriptor]


def _allow_descriptors(number: int) -> None:
    """Have that many open at one time, if the system lets a process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        number = min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
