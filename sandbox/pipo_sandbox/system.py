"""Probe the system by trial, once, before the first sandbox: which protections it allows."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

from . import filesystem, inside, kernel, namespaces, processes, syscall_filter
from .protections import NOT_NEEDED, PROTECTIONS
from .settings import Settings

# The range that systemd keeps for users that exist only while a service runs.
_FIRST_USER, _LAST_USER = 61184, 65519


class System:
    """Tries every protection; where there are namespaces, this process is in its own ones afterwards.

    Attributes:
        report: for each protection an empty text if it is active, else why it is not.
        plan: what each sandbox is to put in place.
        users: one for each slot; empty where programs cannot have users of their own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.report = dict.fromkeys(PROTECTIONS, "not asked for")
        self._locks: list[socket.socket] = []
        self.users: list[int] = []
        self._linux = sys.platform == "linux"
        if self._try("own user", self._reserve_users):
            self.users = [int(lock.getsockname().decode().rpartition("-")[2]) for lock in self._locks]
        self._flags = self._enter_namespaces()
        if self.users and (refusal := _trial(lambda: _become_and_read(self.users[0]))):
            self.users, self.report["own user"] = [], refusal
        filtered = self._try("system call filter", lambda: _in_child(_try_filter))
        user, group = os.getuid(), os.getgid()
        scope: processes.Scope = "namespace" if self._flags else "user" if self.users else "family"
        self.plan = inside.Plan(
            namespaces=self._flags,
            scope=scope,
            user=user,
            group=group,
            calls=kernel.Filter(syscall_filter.filter_program()) if filtered else None,
            readable=self._readable(),
            linux=self._linux,
            no_new_privileges=self._try("no new privileges", lambda: _in_child(kernel.no_new_privileges)),
            limited=self._try("resource limits", lambda: None),
            count_processes=self._try("process limit", self._check_countable),
        )

    def _try(self, name: str, attempt: Callable[[], None]) -> bool:
        if name not in self._settings.use:
            return False
        try:
            attempt()
        except OSError as error:
            self.report[name] = str(error)
            return False
        self.report[name] = ""
        return True

    def _readable(self) -> filesystem.Readable | None:
        """What file rules leave to be read; None without such rules."""
        if self._flags:
            self.report["file rules"] = NOT_NEEDED
            return None
        readable = filesystem.Readable.around(self._settings.paths, self._settings.hidden)
        return readable if self._try("file rules", lambda: _in_child(lambda: _try_rules(readable))) else None

    def _reserve_users(self) -> None:
        """Find users that no other launcher of this machine uses; a bound socket holds each of them."""
        if not self._linux or os.geteuid() != 0:
            raise PermissionError("only root can change to another user")
        span = _LAST_USER - _FIRST_USER
        for offset in range(span):
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                lock.bind(f"\0pipo-user-{_FIRST_USER + (os.getpid() * 64 + offset) % span}")
            except OSError:
                lock.close()
                continue
            self._locks.append(lock)
            if len(self._locks) == self._settings.slots:
                return
        raise PermissionError(f"fewer than {self._settings.slots} users are free")

    def _enter_namespaces(self) -> int:
        """Leave the file system if possible; returns the flags for each sandbox, 0 without namespaces."""
        if self._settings.boxed:
            self.report["namespaces"] = ""
            self.report["own user"] = "not possible in bubblewrap"
            self.users = []
            return 0
        if "namespaces" not in self._settings.use:
            return 0
        if not self._linux:
            self.report["namespaces"] = f"{sys.platform} has none"
            return 0
        refusals = []
        for own in (0, kernel.CLONE_NEWUSER):
            if not own and os.geteuid() != 0:
                continue
            if refusal := _trial(lambda own=own: self._rehearse(own)):
                refusals.append(refusal)
                continue
            namespaces.enter_outer(own, self._settings)
            if own:
                self.users = []
                self.report["own user"] = "not possible in a user namespace; its rights end at the namespaces"
            self.report["namespaces"] = ""
            return namespaces.OF_A_SANDBOX | own
        self.report["namespaces"] = "; ".join(refusals)
        return 0

    def _rehearse(self, own: int) -> None:
        """Everything up to a sandbox's own mounts, in a process that ends afterwards."""
        namespaces.enter_outer(own, self._settings)
        user, group = os.getuid(), os.getgid()

        def enter() -> None:
            if own:
                namespaces.map_user(user, group)
            filesystem.mount_private(self._settings.paths, os.getuid(), os.getgid(), 1)

        _in_child(enter, lambda: kernel.fork(namespaces.OF_A_SANDBOX | own))

    def _check_countable(self) -> None:
        if not (self.users or self._flags & kernel.CLONE_NEWUSER):
            raise PermissionError("the limit would count all processes of this user")


def _become_and_read(user: int) -> None:
    """Whether another user can read the interpreter's own files."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.listdir(os.path.dirname(os.__file__))


def _try_filter() -> None:
    kernel.no_new_privileges()
    kernel.Filter(syscall_filter.filter_program()).install()


def _try_rules(readable: filesystem.Readable) -> None:
    kernel.no_new_privileges()
    filesystem.restrict_files(readable, "/")


def _in_child(attempt: Callable[[], None], fork: Callable[[], int] = os.fork) -> None:
    """Do something that cannot be undone in a process of its own.

    Raises:
        PermissionError: it failed; the message says why.
    """
    if refusal := _trial(attempt, fork):
        raise PermissionError(refusal)


def _trial(attempt: Callable[[], None], fork: Callable[[], int] = os.fork) -> str:
    """Why something fails, found out in a process of its own; empty if it does not."""
    read, write = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            attempt()
        except OSError as error:
            os.write(write, (error.strerror or str(error)).encode())
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read, "rb") as pipe:
        return pipe.read().decode(errors="replace")
