"""The folders that a program may read, as the trusted side finds them."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

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

LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


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
