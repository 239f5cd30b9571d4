"""Settings of the launcher: resource limits of programs, and the folders that they may read."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
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


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one program."""

    cpu_s: int
    """Seconds of CPU time of one process."""
    memory_mb: int
    """Address space of one process, interpreter included."""
    output_kb: int
    """What one test may print or return where nothing longer is expected, and the size of any file."""
    disk_mb: int = 16
    """All files of one program together, where it has a file system of its own."""
    processes: int = 64
    """Processes and threads, where they can be counted apart from the user's others."""
    open_files: int = 128
    """File descriptors of one process."""
    stack_mb: int = 128
    """The main thread's stack."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a launcher needs."""

    limits: Limits
    """Resource limits of each program."""
    slots: int
    """Sandboxes at one time at most; each has a user of its own when root starts them."""
    paths: tuple[str, ...]
    """What programs may read."""
    hidden: tuple[str, ...]
    """What they may not, although it lies below one of ``paths``."""
    packages: tuple[str, ...]
    """Folders of installed packages, for programs that import numpy."""
    use: tuple[str, ...]
    """The protections to try."""
    boxed: bool = False
    """Whether bubblewrap has already made the namespaces around the launcher."""

    def dump(self) -> str:
        """As one command-line argument."""
        return json.dumps(asdict(self))

    @staticmethod
    def load(text: str) -> Settings:
        """From a command-line argument."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("paths", "hidden", "packages", "use"):
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


def seen_below(folders: Sequence[Path], paths: Sequence[str]) -> tuple[str, ...]:
    """Those of ``folders`` that lie below ``paths``, by the names under which they are found there."""
    found: dict[str, None] = {}
    for folder in map(os.path.realpath, folders):
        for path in paths:
            real = os.path.realpath(path)
            if folder.startswith(real + "/") and not os.path.islink(path):
                found[path + folder[len(real) :]] = None
    return tuple(found)
