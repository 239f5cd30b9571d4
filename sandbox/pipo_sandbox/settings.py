"""Settings of the launcher: resource limits of programs, and what they may read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

# Digits of the longest integer that a program can read or print; Python's own limit is 4,300. That of
# LiveCodeBench's harness; the harnesses of the other data sets come from before there was one.
INT_DIGITS = 50_000


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
