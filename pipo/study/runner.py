"""Run what a study still lacks: every run a process of its own, on one thread."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console

from pipo.cli import CONF
from pipo.errors import ConfigError
from pipo.study.plan import StudyPlan
from pipo.sweep import JOB_TYPE, SWEEP_GROUP

TRAIN = CONF.parent / "train.py"
_COMMAND_FILE = "study_run.txt"


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Where the run of an arm and a seed lies."""
    return out / "runs" / f"{arm}-seed{seed}"


def run_study(plan: StudyPlan, seeds: Sequence[int], out: Path, jobs: int) -> None:
    """Run every arm with every seed; finished runs stay, interrupted ones go on from their checkpoint.

    Seeds are the outer loop, so that a study that is stopped early has whole pairs.

    Raises:
        ConfigError: a run failed (its log is named), or the folder holds runs of another plan.
    """
    todo = [(arm, seed) for seed in seeds for arm in plan.arms]
    missing = [pair for pair in todo if not (run_folder(out, *pair) / "summary.json").is_file()]
    console = Console()
    console.print(f"{len(todo)} runs, {len(todo) - len(missing)} of them there already; {jobs} at a time")
    children = _Children()
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_run, plan, arm, seed, out, children): (arm, seed) for arm, seed in todo}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                arm, seed = futures[future]
                if (arm, seed) in missing:
                    console.print(f"[{number}/{len(todo)}] {arm} seed {seed}", highlight=False)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise


class _Children:
    """The training programs that are running, so that they can be stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def call(self, command: list[str], log: Path, place: dict[str, str]) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **place}
        with log.open("ab") as file:
            with self._lock:
                if self._stopped:
                    return -1
                process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
            return code

    def stop(self) -> None:
        """They save and stop at the end of their iteration."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _run(plan: StudyPlan, arm: str, seed: int, out: Path, children: _Children) -> None:
    folder = run_folder(out, arm, seed)
    overrides = [*plan.common, *plan.arms[arm].overrides, f"seed={seed}"]
    record, log = folder.with_name(f"{folder.name}.{_COMMAND_FILE}"), folder.with_name(f"{folder.name}.log")
    record.parent.mkdir(parents=True, exist_ok=True)
    asked = "\n".join(overrides) + "\n"
    if record.is_file() and record.read_text(encoding="utf-8") != asked:
        raise ConfigError(f"{folder}: holds a run with other overrides ({record}); choose another --out")
    if (folder / "summary.json").is_file():
        return
    record.write_text(asked, encoding="utf-8")
    if any((folder / "checkpoints").glob("*.ckpt")):
        arguments = [f"resume={folder}"]
    else:
        shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
        arguments = [*overrides, f"output_dir={folder}"]
    place = {SWEEP_GROUP: out.name, JOB_TYPE: arm}  # in W&B: the study, and within it the arm
    code = children.call([sys.executable, str(TRAIN), *arguments], log, place)
    if code:
        raise ConfigError(f"{folder.name} ended with status {code}; see {log}")
