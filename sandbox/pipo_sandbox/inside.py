"""The first process of a sandbox: gives up every right, then serves."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass

from . import (
    call_service,
    filesystem,
    judge_service,
    kernel,
    processes,
    repl_service,
    stdin_service,
    syscall_filter,
)
from .confinement import Confinement
from .settings import Settings

SERVICES = {
    "s": stdin_service.serve,
    "c": call_service.serve,
    "j": judge_service.serve,
    "r": repl_service.serve,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the launcher has found possible on this system."""

    namespaces: int
    """Flags of the namespaces of each sandbox; 0 without any."""
    scope: processes.Scope
    """Scope in which leftovers of a program are found."""
    filtered: bool
    """Whether the system call filter is installed."""
    readable: filesystem.Readable | None
    """What may be read where Landlock takes the place of a mount namespace; None without it."""
    linux: bool
    """Whether the calls of ``kernel`` exist."""
    count_processes: bool
    """Whether a limit on processes concerns the program alone."""
    limited: bool
    """Whether resource limits are set."""
    no_new_privileges: bool
    """Whether set-uid programs lose their effect."""


def run(
    plan: Plan, settings: Settings, service: str, sockets: list[socket.socket], work: str, own_user: int
) -> None:
    """Drop everything and serve until the other side has gone. Ends the process by returning.

    Args:
        plan: what to put in place.
        settings: of the launcher.
        service: key of ``SERVICES``.
        sockets: what the service talks on.
        work: the working directory.
        own_user: user and group to become; -1 to stay.

    Raises:
        OSError: a protection that the launcher has found possible is refused.
    """
    os.setsid()
    user = own_user if own_user >= 0 else os.getuid()
    group = own_user if own_user >= 0 else os.getgid()
    if plan.namespaces & kernel.CLONE_NEWNS:
        filesystem.mount_private(settings.paths, user, group, settings.limits.disk_mb)
    os.chdir(work)
    if own_user >= 0:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    if plan.linux:
        _harden(plan)
    _limit(plan, settings)
    private = (work, filesystem.TEMPORARY) if plan.namespaces & kernel.CLONE_NEWNS else (work,)
    os.environ["HOME"], os.environ["TMPDIR"] = work, private[-1]
    SERVICES[service](
        sockets,
        Confinement(
            scope=plan.scope,
            limits=settings.limits if plan.limited else None,
            instructions=syscall_filter.filter_program() if plan.filtered else None,
            readable=plan.readable,
            linux=plan.linux,
            private={folder: frozenset(os.listdir(folder)) for folder in private},
        ),
    )


def prepare(settings: Settings) -> None:
    """What is the same in all sandboxes, and so done once in the launcher: environment and module path."""
    os.environ.clear()
    os.environ.update(LANG="C.UTF-8", PYTHONHASHSEED="0", **_ONE_THREAD)
    sys.path.extend(path for path in settings.packages if path not in sys.path)


# Libraries for linear algebra start a thread per core, each with a stack that counts as memory.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _harden(plan: Plan) -> None:
    kernel.drop_capabilities()
    if plan.no_new_privileges:
        kernel.no_new_privileges()
    kernel.die_with_parent(signal.SIGKILL)
    kernel.hide_memory()
    if plan.scope != "namespace":
        kernel.adopt_orphans()


def _limit(plan: Plan, settings: Settings) -> None:
    if not plan.limited:
        return
    limits = settings.limits
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_NOFILE, limits.open_files)
    _set(resource.RLIMIT_STACK, limits.stack_mb << 20)
    if plan.linux:  # elsewhere the limit is not kept, or refused below what is mapped already
        _set(resource.RLIMIT_AS, limits.memory_mb << 20)
    if plan.count_processes:
        _set(resource.RLIMIT_NPROC, limits.processes)


def _set(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))
