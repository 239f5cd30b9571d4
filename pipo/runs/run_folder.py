"""The run folder: its lock, its log, the record of every start, and the checkpoint to resume from."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipo.errors import ConfigError, RunFailed
from pipo.home import HOME, INSTALLED
from pipo.runs.checkpoints import DamagedCheckpoint, finished_checkpoints, set_aside, sweep, verify
from pipo.runs.files import replace_text
from pipo.runs.places import check_output, gone_if_empty, resuming
from pipo.runs.run_log import read_lines

log = logging.getLogger(__name__)

RECORD_FILE, LOG_FILE = "run.jsonl", "train.log"
HELD_OUT_FOLDER = "held_out"
# What a storage says that takes no more: full, over quota, over a size limit, broken, read-only.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_PACKAGES = ("pipo", "torch", "lightning", "transformers", "hydra-core", "math-verify", "wandb", "numpy")


def claim(folder: Path, config: str) -> None:
    """Take an empty or new folder for a run and save its configuration there.

    Of several programs that want the same folder at the same time, one gets it.

    Args:
        folder: to take.
        config: the whole configuration as YAML.

    Raises:
        ConfigError: when it holds a run already, or something that is not a run.
    """
    # A partial file may be another program's that wants the same folder at this moment.
    found = sorted(p.name for p in folder.glob("*") if not p.match(".*.partial"))
    if "config.yaml" in found:
        raise ConfigError(
            f"output_dir={folder}: already holds a run; go on with resume={folder} or take another folder"
        )
    if found:
        raise ConfigError(f"output_dir={folder}: holds something else ({', '.join(found[:3])}); take another")
    check_output(folder)
    # A name of its own, then a link: the file is whole as soon as it is there, and only one program makes it.
    mine = folder / f".config.yaml.{os.getpid()}.partial"
    replace_text(mine, config)
    try:
        os.link(mine, folder / "config.yaml")
    except FileExistsError as error:
        raise ConfigError(f"output_dir={folder}: another run has just taken this folder") from error
    finally:
        mine.unlink()


@contextmanager
def claimed(folder: Path, config: str) -> Iterator[None]:
    """Hold a folder for a new run; it is given back when nothing was sampled, so the command may be repeated.

    Args:
        folder: to take.
        config: the whole configuration as YAML.

    Raises:
        ConfigError: see :func:`claim`.
    """
    with gone_if_empty(folder):
        claim(folder, config)
        try:
            with held(folder):
                yield
        finally:
            if not (folder / "samples.jsonl").exists():
                release(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Be the only program at work in a folder, until this process ends in whatever way.

    Raises:
        ConfigError: when another program does already.
    """
    try:
        file = (folder / RECORD_FILE).open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written to ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder}: another program is at work in this folder") from error
        except OSError as error:
            log.warning("%s: cannot be locked (%s); see that no other program works there", folder, error)
        yield


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """A disk that is full or broken is no fault of the program: one message that says what is left.

    Raises:
        RunFailed: naming the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise RunFailed(
            f"{error.filename or folder}: cannot be written ({error.strerror}). What was written before is "
            f"whole; make room, then go on with {resuming(folder)}"
        ) from error


def release(folder: Path) -> None:
    """Give a folder back whose run never began."""
    logs = (LOG_FILE, "eval.log", "metrics.jsonl", "metrics.csv")
    for name in ("config.yaml", RECORD_FILE, "identity.json", "wandb_run.json", "mlflow.db", *logs):
        (folder / name).unlink(missing_ok=True)
    for name in ("wandb", "tensorboard", HELD_OUT_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)


class _LogFile(logging.FileHandler):
    """A log that cannot be written must not bury what the run itself says about the disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""


@contextmanager
def logging_to(folder: Path, name: str) -> Iterator[None]:
    """Send what the program logs to the run folder as well; warnings also go to the terminal."""
    handler = _LogFile(folder / name, encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def newest_checkpoint(folder: Path, *, leads: bool) -> Path | None:
    """The newest checkpoint of a run that is what was written; None when there was none yet.

    Every process reads every byte, because all must come to the same choice. Damaged ones are named, and
    renamed by the first process.

    Raises:
        ConfigError: when all are damaged.
    """
    if leads:
        sweep(folder)
    damaged: list[tuple[Path, DamagedCheckpoint]] = []
    for checkpoint in reversed(finished_checkpoints(folder / "checkpoints")):
        try:
            verify(checkpoint)
        except DamagedCheckpoint as error:
            damaged.append((checkpoint, error))
            continue
        for path, error in damaged if leads else []:
            kept_as = set_aside(path).name
            log.warning("%s; it is %s now, and the run goes on from %s", error, kept_as, checkpoint.name)
        return checkpoint
    if damaged:
        raise ConfigError(f"resume={folder}: no checkpoint is whole; {'; '.join(str(e) for _, e in damaged)}")
    return None


def record_run(folder: Path, command: Sequence[str] | None, task: str | None = None) -> dict[str, Any]:
    """Append what is needed to do the same again, and return it: command, commit and versions.

    Args:
        folder: the run folder.
        command: that does the same; None for the one that this program was started with.
        task: name and version of what is trained on. One that differs from that of the start before is said.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    entry = {
        "command": ["python", *sys.argv] if command is None else list(command),
        "git": _git(),
        "python": platform.python_version(),
        "versions": versions,
    }
    if task is not None:
        entry["task"] = task
        before = _starts(folder)[-1:]
        if before and before[0].get("task", task) != task:
            log.warning(
                "the task was %s when the run started before and is %s now: its problems, its grader or its "
                "reward functions have changed, and rewards before and after do not compare",
                before[0]["task"],
                task,
            )
    with (folder / RECORD_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    return entry


def _starts(folder: Path) -> list[dict[str, Any]]:
    """The records of earlier starts; none if one of them is damaged, which is for the report to say."""
    path = folder / RECORD_FILE
    try:
        return read_lines(path, itemgetter("command"), "a record of a start") if path.exists() else []
    except ValueError:
        return []


def _git() -> dict[str, Any] | None:
    """Commit of the source tree and whether it was changed; None outside a checkout."""
    if INSTALLED:
        return None  # whatever repository the environment may lie in is another one
    command = ["git", "-C", str(HOME)]
    try:
        sha = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*command, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": sha.stdout.strip(), "changed": bool(status.stdout.strip())}


def write_json(path: Path, value: Any) -> None:
    """Write a file that is either the old one or the new one, never half of it."""
    replace_text(path, json.dumps(value, indent=2) + "\n")
