"""Which process is the first: by its environment, and by the process group as soon as there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from pipo.distributed import processes
from pipo.distributed.processes import is_first, others_wait, own_cores, share_node

VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),  # a program by itself
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),  # torchrun
        ({"RANK": "3", "LOCAL_RANK": "0"}, False),  # torchrun, the first of a further machine
        (
            {"LOCAL_RANK": "0", "NODE_RANK": "0"},
            True,
        ),  # Lightning's own launcher, after it has started others
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),  # srun
        ({"SLURM_PROCID": "2"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # Lightning's launcher in an interactive job
    ],
)
def test_before_there_is_a_process_group_the_environment_tells(
    environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert is_first() == first


def test_as_long_as_there_is_a_process_group_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")  # contradicts the group, so that one sees which of them was asked

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert is_first()
    finally:
        dist.destroy_process_group()
    assert not is_first()


def test_asking_does_not_import_torch() -> None:
    program = (
        "import sys; from pipo.distributed.processes import is_first; "
        "print(is_first(), 'torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "False"]


def test_processes_on_a_node_share_its_cores_and_one_is_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(96)), raising=False)
    monkeypatch.setattr(processes, "cpu_quota", lambda: None)
    try:
        for count, cores in ((1, 96), (8, 12), (100, 1)):
            share_node(count)
            assert own_cores() == cores
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", "96")  # each task has cores of its own
        assert own_cores() == 96
        monkeypatch.setattr(processes, "cpu_quota", lambda: 6.5)  # of a container
        assert own_cores() == 6
    finally:
        share_node(1)


def test_nobody_waits_for_a_process_that_is_alone(tmp_path: Path) -> None:
    assert not others_wait()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert not others_wait()
    finally:
        dist.destroy_process_group()
