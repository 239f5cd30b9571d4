"""Keeps one sandbox where there are no namespaces: watches over it, and clears away what outlives it.

There a program's leftovers have to be looked for, among the children of a process of their own or among
those of a user. In a namespace of processes nothing can be left, and the ``launcher`` watches by itself.
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


def keep(
    plan: inside.Plan,
    settings: Settings,
    order: inside.Order,
    *,
    lifeline: socket.socket,
    work_root: str,
    launcher: int,
) -> NoReturn:
    """Make the sandbox, watch over it, and end it with the lifeline. Ends the process.

    Args:
        plan: what the system allows.
        settings: of the launcher.
        order: what the sandbox is to do.
        lifeline: its other end is shut down at the end of the term.
        work_root: folder for the working directories of sandboxes.
        launcher: number of the process that has forked this one, and that may have died since.
    """
    if plan.linux:
        kernel.die_with_parent(signal.SIGKILL)
        kernel.adopt_orphans()
    problem, problem_end = os.pipe()
    work = tempfile.mkdtemp(dir=work_root)
    if order.own_user >= 0:
        os.chown(work, order.own_user, order.own_user)
    confined = inside.confinement(plan, settings, {work: frozenset()})
    pid = os.fork()
    if pid == 0:
        inside.run(plan, settings, confined, order, problem_end)
    os.close(problem_end)
    for channel in order.channels:
        channel.close()
    with processes.ChildWatch() as watch:
        while watch.wait(pid, _PARENT_CHECK_S, also=(lifeline.fileno(),)) is None:
            if os.getppid() != launcher or processes.readable([lifeline.fileno()]):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)  # not by way of the watch: the lifeline stays readable, and it would spin
                break
    if plan.scope == "user":
        processes.end_user(order.own_user)
    processes.end_all("family")
    shutil.rmtree(work, ignore_errors=True)
    with suppress(OSError):
        lifeline.sendall(os.read(problem, 4096))
    os._exit(0)
