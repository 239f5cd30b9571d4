"""Cores, memory and file systems: what there is, and what this process may use of it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from pipo.distributed.cgroup import cpu_quota, memory_limit
from pipo.distributed.processes import allowed_cores
from pipo.doctor.finding import Finding
from pipo.errors import ConfigError
from pipo.runs.places import check_place

USE, DISKS = "cores and memory", "disks"
_GIB = 2**30
NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
    *("wekafs", "pvfs2", "orangefs", "virtiofs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs"),
    *("fuse.s3fs", "fuse.gcsfuse", "fuse.mountpoint-s3", "fuse.goofys", "fuse.rclone", "fuse.blobfuse2"),
}
# The embedded model takes 1 GiB of memory.
_LEAST_MEMORY = 2 * _GIB
_LEAST_OUTPUT = 2 * _GIB
_LEAST_TEMPORARY = 1 * _GIB
# Docker gives a container 64 MiB.
_LEAST_SHARED = 1 * _GIB


def cores_and_memory() -> list[Finding]:
    """What of the machine's this process may use."""
    return [
        cores(os.cpu_count() or 1, allowed_cores(), cpu_quota(), os.environ.get("OMP_NUM_THREADS")),
        memory(*_memory(), memory_limit()),
    ]


def cores(machine: int, allowed: int, quota: float | None, threads: str | None) -> Finding:
    """Processor cores.

    Args:
        machine: that there are.
        allowed: that this process may keep busy, by affinity and quota.
        quota: of a container or scheduler, in cores; None where there is none.
        threads: the value of OMP_NUM_THREADS.
    """
    found = f"{allowed} of {machine}" if allowed != machine else str(machine)
    if quota is not None:
        found += f", a container's quota is {quota:g}"
    advice = None
    if threads is not None:
        found += f", OMP_NUM_THREADS={threads}"
    elif quota is not None and quota < machine:
        advice = f"set OMP_NUM_THREADS={allowed}: torch counts the machine's cores, not the quota"
    return Finding(about=USE, name="cores", found=found, advice=advice)


def memory(total: int, free: int | None, group: tuple[int, int] | None) -> Finding:
    """Main memory.

    Args:
        total: bytes of the machine.
        free: bytes that new programs may take; None where the system does not say.
        group: limit and use of a container or scheduler's job, in bytes; None without a limit.
    """
    found = f"{total / _GIB:.1f} GiB"
    if free is not None:
        found += f", {free / _GIB:.1f} GiB free"
    usable = free
    if group is not None and group[0] < total:
        limit, used = group
        found += f"; the container may use {limit / _GIB:.1f} GiB, of which {used / _GIB:.1f} GiB are taken"
        usable = limit - used if free is None else min(free, limit - used)
    advice = None
    if usable is not None and usable < _LEAST_MEMORY:
        advice = "end other programs, or give the container more: a run of the smallest model takes 1 GiB"
    return Finding(about=USE, name="memory", found=found, advice=advice)


def _memory() -> tuple[int, int | None]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return total, None
    available = re.search(r"^MemAvailable: +(\d+) kB", lines, re.MULTILINE)
    return total, int(available[1]) * 1024 if available else None


def disks(output: Path) -> list[Finding]:
    """The file systems that a run writes to.

    Args:
        output: the folder of runs, which need not be there yet.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except OSError:
        mounts = ""
    found = [
        output_folder(output, mounts),
        temporary(Path(tempfile.gettempdir()), mounts),
        _place("models from the hub", Path(HF_HUB_CACHE), mounts)[0],
    ]
    shared = Path("/dev/shm")
    return [*found, shared_memory(shared, mounts)] if shared.is_dir() else found


def output_folder(folder: Path, mounts: str) -> Finding:
    """Where runs are kept: writable, with room, and whether over a network."""
    place, free, network = _place("output", folder, mounts)
    advice = None
    try:
        check_place(folder, "output_dir")
    except ConfigError as error:
        advice = str(error)
    if advice is None and free < _LEAST_OUTPUT:
        advice = "make room, or output_dir= elsewhere: a checkpoint takes 12 bytes per trained parameter"
    if advice is None and network:
        advice = "right for several nodes; on one node checkpoints are written faster to a local output_dir="
    return _with(place, advice)


def temporary(folder: Path, mounts: str) -> Finding:
    """Where programs under test run and vLLM's first weights lie."""
    place, free, network = _place("temporary files", folder, mounts)
    advice = None
    if network:
        advice = "set TMPDIR to a local folder: programs under test are slow over a network"
    elif free < _LEAST_TEMPORARY:
        advice = "make room there, or set TMPDIR to a folder with more"
    return _with(place, advice)


def shared_memory(folder: Path, mounts: str) -> Finding:
    """What processes on one node pass on to each other, NCCL's among them."""
    place, free, _ = _place("shared memory", folder, mounts)
    small = free < _LEAST_SHARED
    return _with(place, "docker run --ipc=host, or --shm-size=16g: NCCL needs it" if small else None)


def file_system(path: Path, mounts: str) -> str | None:
    """The kind of file system that a path lies on; None where the system does not say.

    Args:
        path: absolute, and there.
        mounts: text of ``/proc/self/mountinfo``.
    """
    kinds = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
        kinds[Path(point)] = after.split()[0]  # of several at one point the last one is seen
    return next((kinds[folder] for folder in (path, *path.parents) if folder in kinds), None)


def _place(name: str, folder: Path, mounts: str) -> tuple[Finding, int, bool]:
    """A folder, with free bytes and whether it lies on another machine."""
    path = folder.expanduser().absolute()
    there = next(each for each in (path, *path.parents) if each.is_dir()).resolve()
    kind, free = file_system(there, mounts), shutil.disk_usage(there).free
    network = kind in NETWORK
    where = f", {kind}{', over a network' if network else ''}" if kind is not None else ""
    found = f"{path}{where}, {free / _GIB:.1f} GiB free"
    return Finding(about=DISKS, name=name, found=found), free, network


def _with(place: Finding, advice: str | None) -> Finding:
    return Finding(about=place.about, name=place.name, found=place.found, advice=advice)
