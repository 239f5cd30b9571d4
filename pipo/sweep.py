"""Multirun: each job is a run of its own in a process of its own.

Jobs that share a process also share a failed job's memory, process group and environment; and a launcher of
several processes would start the whole sweep again in each of them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

# Set by a launcher of several processes or by Lightning for its own children.
_INHERITED = [
    "LOCAL_RANK",
    "RANK",
    "WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
]
_failed: list[str] = []
_finished: list[str] = []


def run_job(script: str) -> float:
    """Run the current job of a sweep as a plain run; returns its held-out accuracy, nan if it failed."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    (folder / f"{hydra.job.name}.log").unlink(missing_ok=True)  # the job's own process opens it again
    command = [
        sys.executable,
        script,
        f"--config-name={hydra.job.config_name}",
        *hydra.overrides.task,
        f"output_dir='{folder}'",
    ]
    environment = {key: value for key, value in os.environ.items() if key not in _INHERITED}
    environment["PIPO_SWEEP_GROUP"] = Path(hydra.sweep.dir).as_posix().replace("/", "-")
    print(f"\n[job {hydra.job.num}] {hydra.job.override_dirname or 'defaults'}", flush=True)
    code = subprocess.run(command, env=environment, cwd=hydra.runtime.cwd, check=False).returncode
    if code:
        _failed.append(f"{folder} (exit status {code})")
        return math.nan
    _finished.append(str(folder))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return float(summary["after"]["pass@1"])


def report() -> int:
    """Say how a sweep ended; its exit status. Silent when this process ran no sweep."""
    if not _failed and not _finished:
        return 0
    print(f"\n{len(_finished)} of {len(_finished) + len(_failed)} jobs finished")
    for job in _failed:
        print(f"failed: {job}", file=sys.stderr)
    return 1 if _failed else 0
