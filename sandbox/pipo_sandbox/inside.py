"""The first process of a sandbox: gives up every right, then serves."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from . import (
    call_service,
    filesystem,
    judge_service,
    kernel,
    namespaces,
    processes,
    repl_service,
    stdin_service,
    wire,
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
    user: int
    """The user that the launcher runs as."""
    group: int
    """The group that it runs as."""
    calls: kernel.Filter | None
    """The system call filter (seccomp); None without one."""
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


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one sandbox is to do."""

    service: str
    """Key of ``SERVICES``."""
    channels: Sequence[int]
    """Descriptors of the sockets that the service talks on."""
    own_user: int
    """User and group to become; -1 to stay."""


def confinement(plan: Plan, settings: Settings, folders: Mapping[str, frozenset[str]]) -> Confinement:
    """How a program is confined in the sandbox around it.

    Args:
        plan: what to put in place.
        settings: of the launcher.
        folders: that a program may write to, the working directory first, each with what is in it from the
            start. They become its home and the place of temporary files, in this process and its children.
    """
    paths = [*folders]
    os.environ["HOME"], os.environ["TMPDIR"] = paths[0], paths[-1]
    return Confinement(
        scope=plan.scope,
        limits=settings.limits if plan.limited else None,
        calls=plan.calls,
        readable=plan.readable,
        linux=plan.linux,
        private=folders,
    )


def run(
    plan: Plan,
    settings: Settings,
    confined: Confinement,
    order: Order,
    *,
    problem: int,
    watched: Callable[[], bool],
) -> NoReturn:
    """Drop everything and serve until the other side has gone, then end the process.

    Args:
        plan: what to put in place.
        settings: of the launcher.
        confined: the rest of it, for the program.
        order: what to do.
        problem: end of a pipe for the reason if a protection that the launcher has found possible is refused.
        watched: whether the parent is still there, which the kernel is told to end this process with.
    """
    try:
        _enter(plan, settings, confined, order.own_user)
        if watched():
            processes.close_others([problem, *order.channels])
            channels = [_renumbered(descriptor) for descriptor in order.channels]
            SERVICES[order.service](channels, confined)
    except (wire.Closed, wire.WireError):
        pass  # the other side has gone
    except BaseException as error:
        os.write(problem, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(0)


def _renumbered(descriptor: int) -> socket.socket:
    """The socket under the first free number, whatever else the launcher had open."""
    try:
        return socket.socket(fileno=os.dup(descriptor))
    finally:
        os.close(descriptor)


def _enter(plan: Plan, settings: Settings, confined: Confinement, own_user: int) -> None:
    if plan.namespaces & kernel.CLONE_NEWUSER:
        namespaces.map_user(plan.user, plan.group)
    os.setsid()
    user, group = (own_user, own_user) if own_user >= 0 else (os.getuid(), os.getgid())
    if plan.namespaces:
        filesystem.mount_private(settings.paths, user, group, settings.limits.disk_mb)
    os.chdir(next(iter(confined.private)))
    if own_user >= 0:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    if plan.linux:
        _harden(plan)
    _limit(plan, settings)


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
