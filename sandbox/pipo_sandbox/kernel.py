"""The system calls that Python does not wrap, by way of ctypes. Linux only; every failure is an OSError."""

from __future__ import annotations

import ctypes
import os
import signal

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47

_MACHINE = os.uname().machine
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_MOUNT_SETATTR = 442  # from 424 on, numbers are the same on every architecture
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446

_libc = ctypes.CDLL(None, use_errno=True)
# Made once, in the launcher: what a fork of it has to make again costs more than the call does.
for _name in ("prctl", "syscall", "mount", "unshare"):
    hasattr(_libc, _name)  # looks it up and keeps it, where the system has it
# Calls that keep the interpreter's lock, which a process has to hold when it comes back as two.
_locked_libc, _interpreter = ctypes.PyDLL(None, use_errno=True), ctypes.pythonapi
for _step in ("BeforeFork", "AfterFork_Parent", "AfterFork_Child"):
    getattr(_interpreter, f"PyOS_{_step}").restype = None
_CAPABILITY_HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _number(table: dict[str, int], what: str) -> int:
    if _MACHINE not in table:
        raise OSError(f"{what}: not known for {_MACHINE}")
    return table[_MACHINE]


def _prctl(option: int, argument: int | ctypes.Array[ctypes.c_char], what: str, third: object = 0) -> None:
    _checked(_libc.prctl(option, argument, third, 0, 0), what)


def die_with_parent(signal_number: int) -> None:
    """Receive this signal when the parent ends. A change of user clears it."""
    _prctl(_PR_SET_PDEATHSIG, signal_number, "PR_SET_PDEATHSIG")


def hide_memory() -> None:
    """No other process of the same user may trace this one or read its memory."""
    _prctl(_PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def no_new_privileges() -> None:
    """Nothing this process starts can gain rights."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")


def drop_capabilities() -> None:
    """Give up every capability, also those that executing a file could bring back."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # EINVAL: past the last one; EPERM: no right to, and then there are none to lose
    _libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    number = _number(_CAPSET, "capset")
    _checked(_libc.syscall(number, _CAPABILITY_HEADER, _NO_CAPABILITIES), "capset")


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Filter:
    """A seccomp filter, made before the forks that install it.

    Args:
        instructions: as the kernel takes them.
    """

    def __init__(self, instructions: bytes) -> None:
        self._pointer = ctypes.byref(_FilterProgram(len(instructions) // 8, instructions))

    def install(self) -> None:
        """Put it on this process and what it starts.

        Raises:
            OSError: the kernel refuses.
        """
        _checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._pointer, 0, 0), "seccomp")


def fork(flags: int) -> int:
    """``os.fork`` into new namespaces: of processes too, which ``unshare`` makes for children alone.

    For a process of one thread, as ``clone`` does not tell the C library that it forks.
    """
    number = _number(_CLONE, "clone")
    _interpreter.PyOS_BeforeFork()
    pid = _locked_libc.syscall(number, flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        _interpreter.PyOS_AfterFork_Child()
        return 0
    _interpreter.PyOS_AfterFork_Parent()
    return _checked(pid, "clone")


def unshare(flags: int) -> None:
    """Leave the namespaces of the parent."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount a file system or change a mount."""

    def text(value: str | None) -> bytes | None:
        return None if value is None else value.encode()

    result = _libc.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), text(data))
    _checked(result, f"mount {source} on {target}")


def make_read_only(path: str) -> None:
    """Make the mount at ``path`` and all below it read-only and free of set-uid programs."""
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY | MS_NOSUID, 0, 0, 0)
    at_fdcwd, at_recursive = -100, 0x8000
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = _libc.syscall(_MOUNT_SETATTR, at_fdcwd, path.encode(), at_recursive, attributes, size)
    _checked(result, f"mount_setattr {path}")


def enter_root(path: str) -> None:
    """Make ``path`` the root of this mount namespace and let go of the old one."""
    os.chdir(path)
    _checked(_libc.syscall(_number(_PIVOT_ROOT, "pivot_root"), b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def landlock_version() -> int:
    """The kernel's version of Landlock."""
    return _checked(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1), "landlock")


def landlock(files: int, network: int, scopes: int, rules: list[tuple[str, int]]) -> None:
    """Restrict this process and its children to the given paths.

    Args:
        files: rights on files that are denied where no rule grants them.
        network: rights on TCP ports that are denied.
        scopes: what may not reach out of this process and its children.
        rules: path and rights granted at and below it.
    """
    sizes = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}
    attributes = (ctypes.c_uint64 * 3)(files, network, scopes)
    size = ctypes.c_size_t(sizes.get(landlock_version(), 24))
    rule_set = _checked(_libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, size, 0), "landlock")
    try:
        for path, rights in rules:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = rights.to_bytes(8, "little") + opened.to_bytes(4, "little")
            try:
                _checked(_libc.syscall(_LANDLOCK_ADD_RULE, rule_set, 1, rule, 0), f"landlock {path}")
            finally:
                os.close(opened)
        _checked(_libc.syscall(_LANDLOCK_RESTRICT_SELF, rule_set, 0), "landlock")
    finally:
        os.close(rule_set)
