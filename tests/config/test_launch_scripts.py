"""``launch/``: what the scripts start, by stand-ins for srun, nvidia-smi and python that write it down."""

from __future__ import annotations

import os
import subprocess

import pytest
from omegaconf import OmegaConf

from pipo.config.command_line import check_command_line
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from tests.conftest import ROOT

# srun starts the rest of its line; the node has eight GPUs; python writes down how it was called.
STAND_INS = {
    "srun": 'while [[ $1 == -* ]]; do shift; done; exec "$@"',
    "nvidia-smi": 'for i in {0..7}; do echo "GPU $i: NVIDIA H100 80GB HBM3 (UUID: GPU-$i)"; done',
    "python": 'printf "%s\\n" "$@" > "$CALLED"',
}
SLURM = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "8"}
TORCHRUN = {"NODES": "2", "HEAD": "node-1:29500"}


@pytest.fixture
def start(tmp_path):
    """Run a script and return the words that python would get, or the last line of an error."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in STAND_INS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    called = tmp_path / "called"

    def run(script: str, *arguments: str, **variables: str) -> list[str]:
        environment = {**variables, "PATH": f"{programs}:{os.environ['PATH']}", "CALLED": str(called)}
        command = ["bash", str(ROOT / "launch" / script), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return called.read_text().splitlines() if done.returncode == 0 else done.stderr.splitlines()[-1:]

    return run


def overrides(words: list[str]) -> list[str]:
    """What the program gets behind its name."""
    at = words.index("pipo")
    assert words[at - 1 : at + 2] == ["-m", "pipo", "train"]
    return words[at + 2 :]


@pytest.mark.parametrize("script", ["slurm.sh", "torchrun.sh"])
def test_a_row_runs_on_two_nodes_of_eight_as_it_is(script, start, tmp_path, compose_config):
    """Both scripts add folder and shape and nothing else; with those, a row is a run that can be made."""
    folder = tmp_path / "runs/first"
    row = ["experiment=math_8b" if script == "slurm.sh" else "experiment=tool_use", "algo=grpo"]
    place, variables = (str(folder), SLURM) if script == "slurm.sh" else (f"output_dir={folder}", TORCHRUN)

    given = overrides(start(script, place, *row, **variables))

    check_command_line(given, "train")
    added = set(given) - set(row)
    assert added == {
        f"output_dir={folder}",
        "trainer.num_nodes=2",
        "trainer.devices=8",
    }
    config = read(compose_config(*given), TrainConfig)
    assert (config.trainer.strategy, config.trainer.processes) == ("fsdp", 16)
    assert config.strategy.compute_dtype == "bfloat16"


def test_torchrun_is_told_where_the_first_node_is_and_waits_for_the_last_save(start):
    words = start("torchrun.sh", "strategy=fsdp", "output_dir=/shared/x", **TORCHRUN, GRACE_S="60")
    assert words[: words.index("-m", 1)] == [
        *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=8", "--shutdown-timeout=60"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=node-1:29500", "--rdzv-id=pipo"),
    ]


def test_a_folder_that_holds_a_run_is_gone_on_with_in_its_own_shape(start, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({"iterations": 1}))
    assert overrides(start("slurm.sh", str(folder), "algo=grpo", **SLURM)) == [f"resume={folder}"]
    assert overrides(start("torchrun.sh", f"resume={folder}", **TORCHRUN)) == [f"resume={folder}"]


def test_what_a_script_is_not_told_it_asks_for(start):
    assert start("slurm.sh", **SLURM)[0].endswith("the run folder")
    assert start("torchrun.sh", "x=1", HEAD="a:1")[0].endswith("how many nodes")
    assert start("torchrun.sh", "x=1", NODES="2")[0].endswith("host:port of the first node")
