"""The run folder: who may write there, what is recorded about a run, where it can be resumed."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipo.callbacks.checkpoint import finished_checkpoints
from pipo.errors import ConfigError

_PACKAGES = ("pipo", "torch", "lightning", "transformers", "hydra-core", "math-verify", "wandb", "numpy")


def claim(folder: Path, cfg: DictConfig) -> None:
    """Take an empty or new folder for a run and save its configuration there.

    Of several programs that want the same folder at the same time, one gets it.

    Raises:
        ConfigError: when it holds a run already, or something that is not a run.
    """
    found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if "config.yaml" in found:
        raise ConfigError(
            f"output_dir={folder}: already holds a run; go on with resume={folder} or take another folder"
        )
    if found:
        raise ConfigError(f"output_dir={folder}: holds something else ({', '.join(found[:3])}); take another")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / "config.yaml").open("x", encoding="utf-8") as file:
            file.write(OmegaConf.to_yaml(cfg))
    except FileExistsError as error:
        raise ConfigError(f"output_dir={folder}: another run has just taken this folder") from error


@contextmanager
def claimed(folder: Path, cfg: DictConfig) -> Iterator[None]:
    """Hold a folder for a run; it is given back when nothing was sampled, so the command may be repeated.

    Raises:
        ConfigError: see :func:`claim`.
    """
    made = not folder.exists()
    claim(folder, cfg)
    try:
        yield
    finally:
        if not (folder / "samples.jsonl").exists():
            release(folder)
            if made and not any(folder.iterdir()):
                folder.rmdir()


def release(folder: Path) -> None:
    """Give a folder back whose run never began."""
    logs = ("train.log", "eval.log", "metrics.jsonl", "metrics.csv")
    for name in ("config.yaml", "run.jsonl", "identity.json", *logs):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "wandb", ignore_errors=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other programs from going on in this folder; the system lets go when the program ends, however.

    Raises:
        ConfigError: another program is at work there.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder}: another program is writing there") from error
        yield
    finally:
        os.close(handle)


def open_log(folder: Path, name: str) -> None:
    """Send what the program logs to the run folder as well; warnings also go to the terminal."""
    handler = logging.FileHandler(folder / name, encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)


def resumed(folder: Path, overrides: list[str]) -> tuple[DictConfig, Path]:
    """The configuration and the newest checkpoint of an earlier run.

    Args:
        folder: the run folder.
        overrides: the command line; only ``iterations=`` may go with ``resume=``.

    Raises:
        ConfigError: when there is no run, no checkpoint, or another override.
    """
    cfg = saved_config(folder, overrides, "iterations")
    checkpoints = finished_checkpoints(folder / "checkpoints")
    if not checkpoints:
        raise ConfigError(f"resume={folder}: no checkpoint was written yet; start the run again")
    if not zipfile.is_zipfile(checkpoints[-1]):
        raise ConfigError(f"{checkpoints[-1]}: damaged; remove it to go on from the checkpoint before it")
    return cfg, checkpoints[-1]


def saved_config(folder: Path, overrides: list[str], *changeable: str) -> DictConfig:
    """The configuration that a run was started with.

    Args:
        folder: the run folder.
        overrides: the command line that resumes it.
        *changeable: keys that may be given anew; any other would make it another run.

    Raises:
        ConfigError: when there is no run, or another override.
    """
    if not (folder / "config.yaml").is_file():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # made for this program, by mistake
        raise ConfigError(f"resume={folder}: no run here (config.yaml is missing)")
    changes = []
    for entry in overrides:
        key, _, value = entry.lstrip("+").partition("=")
        if key.startswith("hydra."):
            continue
        if key not in ("resume", *changeable):
            only = f"; only {changeable[0]}= may be changed" if changeable else ""
            raise ConfigError(f"{entry}: a resumed run keeps its own configuration{only}")
        changes.append(f"{key}={value}")
    saved = OmegaConf.load(folder / "config.yaml")
    assert isinstance(saved, DictConfig)
    try:
        merged = OmegaConf.merge(saved, OmegaConf.from_dotlist(changes))
    except OmegaConfBaseException as error:
        raise ConfigError(f"resume={folder}: {error}") from error
    assert isinstance(merged, DictConfig)
    merged.output_dir = str(folder)
    return merged


def record_run(folder: Path) -> dict[str, Any]:
    """Append what is needed to do the same again, and return it: command, commit and versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    entry = {
        "command": ["python", *sys.argv],
        "git": _git(),
        "python": platform.python_version(),
        "versions": versions,
    }
    with (folder / "run.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    return entry


def _git() -> dict[str, Any] | None:
    """Commit of the source tree and whether it was changed; None outside a checkout."""
    root = Path(__file__).parent.parent
    command = ["git", "-C", str(root)]
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
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
