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
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from . import filesystem, inside, kernel, processes, syscall_filter, wire
from .settings import INT_DIGITS, PROTECTIONS, Settings

# Modules that programs of this kind import most; loaded once here instead of in every program.
_COMMON = (
    "array bisect calendar cmath collections copy dataclasses datetime decimal enum fractions functools "
    "heapq io itertools json math operator queue random re statistics string struct textwrap threading "
    "time traceback typing"
)
_ALL_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
_ALL_NAMESPACES |= kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
# The range that systemd keeps for users that exist only while a service runs.
_FIRST_USER, _LAST_USER = 61184, 65519
_NOBODY = 65534
_PARENT_CHECK_S = 1.0


def main(control_fd: int, settings_text: str) -> None:
    """Serve orders until the parent has gone.

    Args:
        control_fd: descriptor of the socket that orders come on.
        settings_text: see ``settings``.
    """
    settings = Settings.load(settings_text)
    parent = os.getppid()
    control = socket.socket(fileno=control_fd)
    for name in _COMMON.split():
        __import__(name)
    sys.set_int_max_str_digits(INT_DIGITS)
    gc.freeze()
    launcher = _Launcher(settings)
    wire.send(control, json.dumps(launcher.report).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers one by one
    while os.getppid() == parent:
        if not select.select([control], [], [], _PARENT_CHECK_S)[0]:
            continue
        order, descriptors, _, _ = socket.recv_fds(control, 2, 4)
        if len(order) < 2:
            with suppress(ChildProcessError):
                os.waitpid(-1, 0)  # with SIGCHLD ignored it returns when the last keeper has cleaned up
            break
        launcher.launch(chr(order[0]), order[1], [socket.socket(fileno=fd) for fd in descriptors], control)
    launcher.clean_up()


class _Launcher:
    """Finds out what this system allows, and forks keepers accordingly.

    Attributes:
        report: for each protection an empty text if it is active, else why it is not.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.report = dict.fromkeys(PROTECTIONS, "not asked for")
        self._locks: list[socket.socket] = []
        self._users: list[int] = []
        self._linux = sys.platform == "linux"
        if self._try("own user", self._reserve_users):
            self._users = [number for number, _ in map(_user_of, self._locks)]
        self._flags = self._enter_namespaces()
        if self._users and (refusal := _trial(lambda: _become_and_read(self._users[0]))):
            self._users, self.report["own user"] = [], refusal
        filtered = self._try("system call filter", lambda: _in_child(_try_filter))
        if self._flags:
            self.report["file rules"] = "not needed beside namespaces"
            file_rules = False
        else:
            file_rules = self._try("file rules", lambda: _in_child(lambda: _try_file_rules(settings)))
        scope: processes.Scope = "namespace" if self._flags else "user" if self._users else "family"
        self._plan = inside.Plan(
            namespaces=self._flags,
            scope=scope,
            filtered=filtered,
            file_rules=file_rules,
            linux=self._linux,
            no_new_privileges=self._try("no new privileges", lambda: _in_child(kernel.no_new_privileges)),
            limited=self._try("resource limits", lambda: None),
            count_processes=self._try("process limit", self._check_countable),
        )
        self._work_root = "" if self._flags else tempfile.mkdtemp(prefix="pipo-sandbox-")
        if self._work_root:
            os.chmod(self._work_root, 0o711)

    def launch(self, service: str, slot: int, sockets: list[socket.socket], control: socket.socket) -> None:
        """Fork a keeper for one sandbox."""
        if os.fork() == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
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
            self._users = []
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
            _enter_outer(own, self._settings)
            if own:
                self._users = []
                self.report["own user"] = "not possible in a user namespace; its rights end at the namespaces"
            self.report["namespaces"] = ""
            return _ALL_NAMESPACES | own
        self.report["namespaces"] = "; ".join(refusals)
        return 0

    def _rehearse(self, own: int) -> None:
        """Everything up to a sandbox's own mounts, in a process that ends afterwards."""
        _enter_outer(own, self._settings)
        _unshare(_ALL_NAMESPACES | own)
        _in_child(lambda: filesystem.mount_private(self._settings.paths, os.getuid(), os.getgid(), 1))

    def _check_countable(self) -> None:
        if not (self._users or self._flags & kernel.CLONE_NEWUSER):
            raise PermissionError("the limit would count all processes of this user")

    def _keep(self, service: str, slot: int, sockets: list[socket.socket]) -> NoReturn:
        """Make the sandbox, watch over it, and end it with the lifeline."""
        lifeline, *channels = sockets
        if self._linux:
            kernel.die_with_parent(signal.SIGKILL)
        user = self._users[slot] if self._users else -1
        problem, problem_end = os.pipe()
        work = self._make_work(slot, user)
        _unshare(self._flags)
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
        if self._linux:
            kernel.adopt_orphans()
        work = tempfile.mkdtemp(prefix=f"{slot}-", dir=self._work_root)
        if user >= 0:
            os.chown(work, user, user)
        return work


def _user_of(lock: socket.socket) -> tuple[int, str]:
    name = lock.getsockname().decode()
    return int(name.rpartition("-")[2]), name


def _enter_outer(own: int, settings: Settings) -> None:
    _unshare(kernel.CLONE_NEWNS | own)
    filesystem.enter_small_root(settings.paths)


def _unshare(flags: int) -> None:
    user, group = os.getuid(), os.getgid()
    if flags:
        kernel.unshare(flags)
    if flags & kernel.CLONE_NEWUSER:
        # Never 0 inside: what the kernel keeps from other users, it shows to a namespace's root.
        inner_user, inner_group = user or _NOBODY, group or _NOBODY
        lines = {
            "setgroups": "deny",
            "uid_map": f"{inner_user} {user} 1",
            "gid_map": f"{inner_group} {group} 1",
        }
        for name, line in lines.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)


def _become_and_read(user: int) -> None:
    """Whether another user can read the interpreter's own files."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.listdir(os.path.dirname(os.__file__))


def _try_filter() -> None:
    kernel.no_new_privileges()
    kernel.install_filter(syscall_filter.filter_program())


def _try_file_rules(settings: Settings) -> None:
    kernel.no_new_privileges()
    filesystem.restrict_files(settings.paths, tempfile.gettempdir())


def _in_child(attempt: Callable[[], None]) -> None:
    """Do something that cannot be undone in a process of its own.

    Raises:
        PermissionError: it failed; the message says why.
    """
    if refusal := _trial(attempt):
        raise PermissionError(refusal)


def _trial(attempt: Callable[[], None]) -> str:
    """Why something fails, found out in a process of its own; empty if it does not."""
    read, write = os.pipe()
    pid = os.fork()
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
