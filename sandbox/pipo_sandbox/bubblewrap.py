"""Bubblewrap around the launcher, for systems where its set-up may do what ours may not.

Some distributions let users make namespaces through this program only: it is installed set-uid, or
a security policy names it. It is then put around the launcher, so that all sandboxes share one set
of namespaces, apart from the host; between them stand the system call filter, the file rules and
the limits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .settings import Settings

EXECUTABLE = "bwrap"


def wrap(executable: str, command: Sequence[str], settings: Settings) -> list[str]:
    """The command in bubblewrap."""
    size = str(settings.slots * settings.limits.disk_mb << 20)
    wrapped = [executable, "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev"]
    wrapped += ["--size", size, "--tmpfs", "/tmp"]
    # A program of ours is started in there, so the interpreter itself and this package have to be.
    interpreter = [sys.executable, os.path.realpath(sys.executable), f"{sys.prefix}/pyvenv.cfg"]
    for path in dict.fromkeys([*settings.paths, *interpreter, str(Path(__file__).parent)]):
        if os.path.islink(path):
            wrapped += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            wrapped += ["--ro-bind", path, path]
    for path in settings.hidden:
        wrapped += ["--tmpfs", path, "--remount-ro", path]
    return [*wrapped, "--chdir", "/tmp", "--", *command]
