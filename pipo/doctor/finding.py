"""One thing that was found out about this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was looked at, what it is, and what to do where that is not as it should be."""

    about: str
    """Part of the report, as ``packages``, ``GPUs``, ``cores and memory`` or ``disks``."""
    name: str
    """What was looked at."""
    found: str
    """What it is."""
    advice: str | None = None
    """One line on what to do; None where nothing is wrong."""
