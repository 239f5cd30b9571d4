"""What the launcher is told at its start, and what it says about the protections in return."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from dataclasses import asdict, dataclass
from typing import Any

# Where shared libraries and time zones lie on a Linux system, beside the interpreter's own folder.
_SYSTEM_PATHS = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/nix/store",
    "/gnu/store",
)

# Digits of the longest integer that a program can read or print; Python's own limit is 4,300. That of
# LiveCodeBench's harness; the harnesses of the other data sets come from before there was one.
INT_DIGITS = 50_000

LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

# In the order in which they are shown; each does without the others. Names are used as keys.
PROTECTIONS: dict[str, str] = {
    "namespaces": "other processes, the network and files are hidden only by what else is active",
    "own user": "programs run as the user who trains",
    "system call filter": "sockets, new processes and signals are refused only by what else is active",
    "file rules": "files of this user can be read and written",
    "no new privileges": "set-uid programs keep their effect",
    "resource limits": "memory, CPU time, file size and open files are unlimited",
    "process limit": "without the system call filter a fork bomb is ended by the wall clock only",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one program.

    Attributes:
        cpu_s: seconds of CPU time of one process.
        memory_mb: address space of one process, interpreter included.
        output_kb: what one test may print or return where nothing longer is expected, and the size of any
            file.
        disk_mb: all files of one program together, where it has a file system of its own.
        processes: processes and threads, where they can be counted apart from the user's others.
        open_files: file descriptors of one process.
        stack_mb: the main thread's stack.
    """

    cpu_s: int
    memory_mb: int
    output_kb: int
    disk_mb: int = 16
    processes: int = 64
    open_files: int = 128
    stack_mb: int = 128


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a launcher needs.

    Attributes:
        limits: of each program.
        slots: sandboxes at one time at most; each has a user of its own when root starts them.
        paths: what programs may read.
        packages: folders of installed packages, for programs that import numpy.
        use: the protections to try.
        boxed: whether bubblewrap has already made the namespaces around the launcher.
    """

    limits: Limits
    slots: int
    paths: tuple[str, ...]
    packages: tuple[str, ...]
    use: tuple[str, ...]
    boxed: bool = False

    def dump(self) -> str:
        """As one command-line argument."""
        return json.dumps(asdict(self))

    @staticmethod
    def load(text: str) -> Settings:
        """From a command-line argument."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("paths", "packages", "use"):
            fields[name] = tuple(fields[name])
        return Settings(**{**fields, "limits": Limits(**fields["limits"])})


def readable_paths() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Folders that a Python program needs, and of these the ones with installed packages."""
    packages = tuple(dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib")))
    standard = tuple(dict.fromkeys(sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib")))
    interpreter = os.path.join(sys.base_prefix, "lib")
    libraries = [path for name in LIBRARY_PATHS for path in os.environ.get(name, "").split(":")]
    libraries = [path for path in libraries if path.count("/") > 1]  # absolute, and not the root
    wanted = [*_SYSTEM_PATHS, interpreter, *standard, *packages, *libraries]
    wanted = [os.path.normpath(path) for path in wanted if os.path.exists(path)]
    kept: list[str] = []
    for path in sorted(dict.fromkeys(wanted), key=len):
        if not any(path.startswith(parent + "/") and not os.path.islink(parent) for parent in kept):
            kept.append(path)
    return tuple(kept), packages
