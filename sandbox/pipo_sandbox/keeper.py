"""Keeps sandboxes where there are no namespaces: watches over each, and clears away what outlives it.

There a program's leftovers have to be looked for, among the children of a process of their own, the keeper,
or among those of a user. In a namespace of processes nothing can be left, and the ``launcher`` watches by
itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from contextlib import suppress
from typing import NoReturn

from . import inside, kernel, processes
from .settings import Settings

_PARENT_CHECK_S = 1.0


class Keepers:
    """Forks keepers.

    Args:
        plan: what the system allows.
        settings: of the launcher.
    """

    def __init__(self, plan: inside.Plan, settings: Settings) -> None:
        self._plan, self._settings = plan, settings
        self._work_root = tempfile.mkdtemp(prefix=f"pipo-sandbox-{os.getpid()}-")
        os.chmod(self._work_root, 0o711)

    def start(self, order: inside.Order, lifeline: socket.socket, control: socket.socket) -> None:
        """Fork one, which lets go of what the launcher's orders come on."""
        launcher = os.getpid()
        if os.fork() == 0:
            try:
                control.close()
                self._keep(order, lifeline, launcher)
            finally:
                os._exit(1)
        lifeline.close()

    def wait(self, options: int) -> None:
        """Wait for those that have ended, so that what they have used is counted where it was ordered."""
        with suppress(ChildProcessError):
            while os.waitpid(-1, options)[0]:
                pass

    def clean_up(self) -> None:
        """Remove what is on disk."""
        shutil.rmtree(self._work_root, ignore_errors=True)

    def _keep(self, order: inside.Order, lifeline: socket.socket, launcher: int) -> NoReturn:
        """Make the sandbox, watch over it, and end it with the lifeline, or with a launcher that has died."""
        if self._plan.linux:
            kernel.die_with_parent(signal.SIGKILL)
            kernel.adopt_orphans()
        problem, problem_end = os.pipe()
        work = tempfile.mkdtemp(dir=self._work_root)
        if order.own_user >= 0:
            os.chown(work, order.own_user, order.own_user)
        confined = inside.confinement(self._plan, self._settings, {work: frozenset()})
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            inside.run(
                self._plan,
                self._settings,
                confined,
                order,
                problem=problem_end,
                watched=lambda: os.getppid() == keeper,
            )
        os.close(problem_end)
        for channel in order.channels:
            os.close(channel)
        with processes.ChildWatch(lifeline.fileno()) as watch:
            while watch.wait(pid, _PARENT_CHECK_S) is None:
                if os.getppid() != launcher or processes.readable(lifeline.fileno()):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)  # the lifeline stays readable, so that the watch would not wait
                    break
        if self._plan.scope == "user":
            processes.end_user(order.own_user)
        processes.end_all("family")
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):
            lifeline.sendall(os.read(problem, 4096))
        os._exit(0)
