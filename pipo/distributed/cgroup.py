"""Limits of a container or a scheduler's job (Linux control groups, cgroups): processor time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# What version 1 writes where there is no limit is this or a little less.
_UNLIMITED_BYTES = 1 << 62


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that this process may take; None where nothing limits it.

    Args:
        root: of the file system, for tests.
    """
    quotas = []
    for folder, version in _groups(root, "cpu"):
        if version == 2:
            words = _words(folder / "cpu.max")
        else:
            words = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and words[0] not in ("max", "-1"):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_limit(root: Path = Path("/")) -> tuple[int, int] | None:
    """Bytes that this process and its neighbours in the group may use, and use; None without a limit.

    Args:
        root: of the file system, for tests.
    """
    limits = []
    for folder, version in _groups(root, "memory"):
        names = ("memory.max", "memory.current") if version == 2 else _VERSION_1
        limit, used = (_words(folder / name) for name in names)
        if limit and used and limit[0] != "max" and int(limit[0]) < _UNLIMITED_BYTES:
            limits.append((int(limit[0]), int(used[0])))
    return min(limits, key=lambda pair: pair[0] - pair[1], default=None)


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Folders of this process's group and of those above it, each with the version of its interface."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        version = 1 if controllers else 2
        # A container may see its own group as the root, whatever the path says; so the root is always asked.
        inner = top / own.lstrip("/")
        yield from ((folder, version) for folder in (inner, *inner.parents) if folder.is_relative_to(top))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []
