"""Rank of this process, also before there is a process group, and the run folder that it was given.

Before there is one, the environment tells: torchrun sets RANK, Lightning sets LOCAL_RANK (and NODE_RANK on
further machines) for the processes that it starts itself, and SLURM's srun sets SLURM_PROCID.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipo.distributed.cgroup import cpu_quota

# A run tells its folder to the processes that it starts; theirs would be named by a later time of day.
RUN_FOLDER = "PIPO_RUN_FOLDER"
# What a program started for another purpose must not inherit.
OF_THIS_PROCESS = {
    "LOCAL_RANK",
    "RANK",
    "WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    RUN_FOLDER,
}
_ON_NODE = 1


def is_first() -> bool:
    """Whether this is the first of all processes of a run: the one that writes, logs and speaks.

    The same answer before, while and after there is a process group, so nobody has to know which it is.
    """
    if (dist := _process_group()) is not None:
        return dist.get_rank() == 0
    if "RANK" in os.environ:
        return int(os.environ["RANK"]) == 0
    own = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))
    return int(own) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0


@contextmanager
def telling_folder(folder: str) -> Iterator[None]:
    """Name the run folder to the processes that are started meanwhile, and to no later ones."""
    before = os.environ.get(RUN_FOLDER)
    os.environ[RUN_FOLDER] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[RUN_FOLDER]
        else:
            os.environ[RUN_FOLDER] = before


def given_folder() -> str | None:
    """The run folder of the program that started this one as a further process of its own."""
    return os.environ.get(RUN_FOLDER) if "LOCAL_RANK" in os.environ else None


def share_node(processes: int) -> None:
    """Say how many processes of this run are on this node."""
    global _ON_NODE
    _ON_NODE = processes


def allowed_cores() -> int:
    """Processor cores that processes of this run may keep busy, by affinity and a container's quota."""
    by_affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return by_affinity if quota is None else max(1, min(by_affinity, int(quota)))


def own_cores() -> int:
    """Processor cores that this process may keep busy: its part of those of the node.

    SLURM may have given each task cores of its own, which are not divided again.
    """
    allowed = allowed_cores()
    return allowed if "SLURM_CPUS_PER_TASK" in os.environ else max(1, allowed // _ON_NODE)


def others_wait() -> bool:
    """Whether there are further processes, which sooner or later wait for this one."""
    dist = _process_group()
    return dist is not None and dist.get_world_size() > 1


def _process_group() -> Any:
    """The module torch.distributed where there is a process group; None before and after."""
    # Not imported here: torch takes seconds, and where nobody has imported it there is no group.
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def started_together() -> bool:
    """Whether something else than the first process has started the others."""
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", "1"))) > 1
