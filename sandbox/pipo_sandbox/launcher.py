"""The process that forks sandboxes: small, single-threaded, holding nothing worth stealing.

It receives only sockets, never a program, an input or an expected output, and every sandbox is a
fork of the same state, so that nothing passes from one program to the next.

Each order is two bytes (service and slot) with two to four sockets: the lifeline first. The
lifeline is the sandbox's term: when its other end is shut down, the keeper kills everything in
the sandbox, cleans up and closes its own end, after one last message if the sandbox could not
be set up.
"""

from __future__ import annotations

import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from typing import NoReturn

from . import filesystem, inside, kernel, namespaces, processes, wire
from .settings import INT_DIGITS, Settings
from .system import System

# Modules that programs of this kind import most; loaded once here instead of in every program.
_COMMON = (
    "array bisect calendar cmath collections copy dataclasses datetime decimal enum fractions functools "
    "heapq io itertools json math operator queue random re statistics string struct textwrap threading "
    "time traceback typing"
)
_PARENT_CHECK_S = 1.0


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
    launcher = _Launcher(settings, system)
    gc.freeze()
    wire.send(control, json.dumps(system.report).encode())
    while os.getppid() == parent:
        ordered = select.select([control], [], [], _PARENT_CHECK_S)[0]
        _wait_for_keepers(os.WNOHANG)
        if not ordered:
            continue
        order, descriptors, _, _ = socket.recv_fds(control, 2, 4)
        if len(order) < 2:
            _wait_for_keepers(0)  # until the last one has cleaned up
            break
        launcher.launch(chr(order[0]), order[1], [socket.socket(fileno=fd) for fd in descriptors], control)
    launcher.clean_up()


def _wait_for_keepers(options: int) -> None:
    """Wait for those that have ended, so that what a sandbox has used is counted where it was ordered."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


class _Launcher:
    """Forks keepers.

    Args:
        settings: of all sandboxes.
        system: what it allows.
    """

    def __init__(self, settings: Settings, system: System) -> None:
        self._settings, self._plan, self._users = settings, system.plan, system.users
        mine = f"pipo-sandbox-{os.getpid()}-"
        self._work_root = "" if self._plan.namespaces else tempfile.mkdtemp(prefix=mine)
        if self._work_root:
            os.chmod(self._work_root, 0o711)

    def launch(self, service: str, slot: int, sockets: list[socket.socket], control: socket.socket) -> None:
        """Fork a keeper for one sandbox."""
        if os.fork() == 0:
            try:
                control.close()
                self._keep(service, slot, sockets)
            finally:
                os._exit(1)
        for end in sockets:
            end.close()

    def clean_up(self) -> None:
        """Remove what is on disk."""
        if self._work_root:
            shutil.rmtree(self._work_root, ignore_errors=True)

    def _keep(self, service: str, slot: int, sockets: list[socket.socket]) -> NoReturn:
        """Make the sandbox, watch over it, and end it with the lifeline."""
        lifeline, *channels = sockets
        if self._plan.linux:
            kernel.die_with_parent(signal.SIGKILL)
        user = self._users[slot] if self._users else -1
        problem, problem_end = os.pipe()
        work = self._make_work(slot, user)
        namespaces.unshare(self._plan.namespaces)
        pid = os.fork()
        if pid == 0:
            try:
                lifeline.close()
                os.close(problem)
                inside.run(self._plan, self._settings, service, channels, work, user)
            except (wire.Closed, wire.WireError):
                pass  # the other side has gone
            except BaseException as error:
                os.write(problem_end, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.close(problem_end)
        for channel in channels:
            channel.close()
        launcher = os.getppid()
        with processes.ChildWatch() as watch:
            while watch.wait(pid, _PARENT_CHECK_S, also=(lifeline.fileno(),)) is None:
                if os.getppid() != launcher or select.select([lifeline], [], [], 0)[0]:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)  # not by way of the watch: the lifeline stays readable, and it would spin
                    break
        self._sweep(user)
        if work != filesystem.WORK:
            shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):
            lifeline.sendall(os.read(problem, 4096))
        os._exit(0)

    def _sweep(self, user: int) -> None:
        """End what has outlived the first process; in a PID namespace nothing can."""
        if self._plan.scope == "user":
            processes.end_user(user)
        if self._plan.scope != "namespace":
            processes.end_all("family")

    def _make_work(self, slot: int, user: int) -> str:
        if not self._work_root:
            return filesystem.WORK
        if self._plan.linux:
            kernel.adopt_orphans()
        work = tempfile.mkdtemp(prefix=f"{slot}-", dir=self._work_root)
        if user >= 0:
            os.chown(work, user, user)
        return work
