"""Multirun (sweeps): each job is a run of its own in a process of its own.

Jobs that share a process also share a failed job's memory, process group and environment; and a launcher of
several processes would start the whole sweep again in each of them.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipo.distributed.processes import OF_THIS_PROCESS, is_first
from pipo.errors import ConfigError

# What a run is told about the sweep or study that it belongs to, for W&B.
SWEEP_GROUP, JOB_TYPE = "PIPO_SWEEP_GROUP", "PIPO_JOB_TYPE"
# Letters of a job's folder.
_LONGEST = 120
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_failed: list[str] = []
_finished: list[str] = []


def job_name(number: int, overrides: Sequence[str]) -> str:
    """A folder's name for a job: its number and what sets it apart, as ``1-seed_2-pipo_none``.

    Only letters that neither a shell nor Hydra gives a meaning, so that it can be typed and pasted.

    Args:
        number: of the job.
        overrides: all of the job, also those that every job of the sweep has.
    """
    same = _given_to_all(sys.argv[1:])
    swept = [each.partition("=") for each in overrides if each.partition("=")[0].lstrip("+~") not in same]
    room = (_LONGEST - len(str(number))) // max(1, len(swept)) - 1
    parts = []
    for key, _, value in swept:
        name = key.lstrip("+~")
        # Of a long one the end of the key and the beginning of the value tell most.
        name = name if len(name) + len(value) < room else name.rpartition(".")[2]
        parts.append(re.sub(r"[^A-Za-z0-9_.+-]+", "_", f"{name}={value}")[:room].strip("_"))
    return "-".join([str(number), *parts])


def _given_to_all(arguments: Sequence[str]) -> set[str]:
    """The keys of the command line that are not swept."""
    plain = [each for each in arguments if "=" in each and not each.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(plain)
    return {each.key_or_group for each in parsed if not each.is_sweep_override()}


def run_job(script: str) -> float:
    """Run the current job of a sweep as a plain run; returns its held-out accuracy, nan if it failed.

    A cluster may run this in every process of the job; the first one's value counts.

    Raises:
        ConfigError: when the command line names one folder for all jobs.
        SystemExit: when the job was stopped by a signal; the sweep ends with it.
    """
    hydra = HydraConfig.get()
    for override in hydra.overrides.task:
        if override.lstrip("+").startswith(("output_dir=", "resume=")):
            raise ConfigError(
                f"{override}: a sweep makes a folder per job; name theirs with hydra.sweep.dir="
            )
    # Where --config-dir and hydra.searchpath found further files, the job's own process must look too.
    sources = [each for each in hydra.runtime.config_sources if each.schema == "file"]
    further = [f"file://{each.path}" for each in sources if each.provider != "main"]
    folder = Path(hydra.runtime.output_dir)
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    command = [
        sys.executable,
        script,
        f"--config-name={hydra.job.config_name}",
        *([f"hydra.searchpath={further}"] if further else []),
        "hydra.mode=RUN",  # where an experiment makes a sweep of itself
        *hydra.overrides.task,
        f"output_dir='{quoted}'",
    ]
    environment = {key: value for key, value in os.environ.items() if key not in OF_THIS_PROCESS}
    environment[SWEEP_GROUP] = Path(hydra.sweep.dir).as_posix().replace("/", "-")
    print(f"\n[job {hydra.job.num}] {hydra.job.override_dirname or 'defaults'}", flush=True)
    code = _wait(subprocess.Popen(command, env=environment, cwd=hydra.runtime.cwd))
    if code in _STOPPED:
        print(f"the sweep ends with its job {hydra.job.num}, which was stopped", file=sys.stderr)
        sys.exit(code)
    if code:
        with suppress(OSError):  # of a job that could not begin, nothing is left
            folder.rmdir()
        _failed.append(f"{folder} (exit status {code})")
        return math.nan
    if not is_first():
        return math.nan
    _finished.append(str(folder))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return float(summary["after"]["pass@1"])


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a job. Ctrl-C reaches it directly and it stops in good order; SIGTERM is handed on."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number)),
    }
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report() -> int:
    """Say how a sweep ended; its exit status. Silent when this process ran no sweep."""
    if not _failed and not _finished:
        return 0
    print(f"\n{len(_finished)} of {len(_finished) + len(_failed)} jobs finished")
    for job in _failed:
        print(f"failed: {job}", file=sys.stderr)
    return 1 if _failed else 0
