"""Run what is missing in a study: every run a process of its own, on one thread."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipo.analysis.study.plan import StudyPlan
from pipo.config.sweep import JOB_TYPE, SWEEP_GROUP
from pipo.errors import ConfigError
from pipo.home import HOME
from pipo.runs.files import replace_text
from pipo.runs.run_log import DIVERGED_FILE

TRAIN = HOME / "train.py"
_COMMAND_FILE = "study_run.txt"
# Of train.py, for a configuration that it does not take.
BAD_CONFIGURATION = 2


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that is missing in the study."""

    run: str
    """Name of its run folder."""
    code: int
    """Exit status of ``train.py``."""
    log: Path
    """The file with what it said."""

    def __str__(self) -> str:
        return f"{self.run} ended with status {self.code}; see {self.log}"


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Where the run of an arm and a seed lies."""
    return out / "runs" / f"{arm}-seed{seed}"


def run_order(plan: StudyPlan, seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Arms and seeds in the order of the runs.

    Seeds are the outer loop, so that a study that is stopped early has whole pairs. Every second seed takes
    the arms from last to first: what drifts with the machine meets the arms of a pair alike.
    """
    arms = list(plan.arms)
    return [(arm, seed) for n, seed in enumerate(seeds) for arm in (arms if n % 2 == 0 else reversed(arms))]


def run_study(plan: StudyPlan, seeds: Sequence[int], out: Path, jobs: int) -> list[Failure]:
    """Run every arm with every seed; finished runs stay, interrupted ones go on from their checkpoint.

    A run that fails leaves the others to go on. A configuration that is refused would be refused again, so
    it ends the study at once. In a stability study a run that diverged is an outcome and not a failure.

    Returns:
        What failed.

    Raises:
        ConfigError: a run's configuration was refused (its log is named), or the folder holds runs of another
            plan.
    """
    todo = run_order(plan, seeds)
    for arm, seed in todo:
        _check_record(plan, arm, seed, out)
    missing = [pair for pair in todo if not (finished(out, *pair) or _outcome(plan, out, *pair))]
    console = Console()
    jobs = 1 if plan.alone else jobs
    why = " (this study compares seconds)" if plan.alone else ""
    console.print(
        f"{len(todo)} runs, {len(todo) - len(missing)} of them there already; {jobs} at a time{why}"
    )
    children, failed = _Children(), []
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_run, plan, arm, seed, out, children): (arm, seed) for arm, seed in missing}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                arm, seed = futures[future]
                code = future.result()
                if code == BAD_CONFIGURATION:
                    raise ConfigError(str(_failure(out, arm, seed, code)))
                early = bool(code) and _outcome(plan, out, arm, seed)
                if code and not early:
                    failed.append(_failure(out, arm, seed, code))
                how = "diverged" if early else f"ended with status {code}" if code else "done"
                console.print(
                    f"[{number}/{len(missing)}] {arm} seed {seed} {how}", highlight=False, markup=False
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
    return failed


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


def _overrides(plan: StudyPlan, arm: str, seed: int) -> list[str]:
    return [*plan.common, *plan.arms[arm].overrides, f"seed={seed}"]


def _record(out: Path, arm: str, seed: int) -> Path:
    """What a run was asked for, beside its folder."""
    folder = run_folder(out, arm, seed)
    return folder.with_name(f"{folder.name}.{_COMMAND_FILE}")


def _log(out: Path, arm: str, seed: int) -> Path:
    folder = run_folder(out, arm, seed)
    return folder.with_name(f"{folder.name}.log")


def finished(out: Path, arm: str, seed: int) -> bool:
    """Whether the run has its result."""
    return (run_folder(out, arm, seed) / "summary.json").is_file()


def diverged(out: Path, arm: str, seed: int) -> bool:
    """Whether the run ended early because its numbers were no longer finite."""
    return not finished(out, arm, seed) and (run_folder(out, arm, seed) / DIVERGED_FILE).is_file()


def _outcome(plan: StudyPlan, out: Path, arm: str, seed: int) -> bool:
    return plan.figure == "stability" and diverged(out, arm, seed)


def _failure(out: Path, arm: str, seed: int, code: int) -> Failure:
    return Failure(run=run_folder(out, arm, seed).name, code=code, log=_log(out, arm, seed))


def _check_record(plan: StudyPlan, arm: str, seed: int, out: Path) -> None:
    """Refuse to mix runs of different plans.

    Raises:
        ConfigError: the folder holds a run with other overrides.
    """
    record = _record(out, arm, seed)
    asked = _overrides(plan, arm, seed)
    if record.is_file() and record.read_text(encoding="utf-8").splitlines() != asked:
        folder = run_folder(out, arm, seed)
        raise ConfigError(f"{folder}: holds a run with other overrides ({record}); choose another --out")


def _run(plan: StudyPlan, arm: str, seed: int, out: Path, children: _Children) -> int:
    """Begin or go on with a run; its exit status."""
    folder, overrides = run_folder(out, arm, seed), _overrides(plan, arm, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    replace_text(_record(out, arm, seed), "\n".join(overrides) + "\n")
    if any((folder / "checkpoints").glob("*.ckpt")):
        arguments = [f"resume={folder}"]
    else:
        shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
        arguments = [*overrides, f"output_dir={folder}"]
    place = {SWEEP_GROUP: out.name, JOB_TYPE: arm}  # in W&B: the study, and within it the arm
    return children.call([sys.executable, str(TRAIN), *arguments], _log(out, arm, seed), place)
