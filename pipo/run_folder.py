"""The run folder: who may write there, what is recorded about a run, where it can be resumed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipo.callbacks.checkpoint import finished_checkpoints
from pipo.errors import ConfigError

# Hydra opens one of these before the job starts.
_LOGS = ("train.log", "eval.log")
# What a resumed run may change; everything else would make it another run.
RESUMABLE_KEYS = ("iterations", "resume")
_PACKAGES = ("pipo", "torch", "lightning", "transformers", "hydra-core", "math-verify", "wandb", "numpy")


def claim(folder: Path) -> None:
    """Take an empty or new folder for a run.

    Raises:
        ConfigError: when it holds a run already, or something that is not a run.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir={folder}: this is a file")
    found = sorted(p.name for p in folder.iterdir() if p.name not in _LOGS) if folder.exists() else []
    if "config.yaml" in found:
        raise ConfigError(
            f"output_dir={folder}: already holds a run; go on with resume={folder} or take another folder"
        )
    if found:
        raise ConfigError(f"output_dir={folder}: holds something else ({', '.join(found[:3])}); take another")
    folder.mkdir(parents=True, exist_ok=True)


def resumed(folder: Path, overrides: list[str]) -> tuple[DictConfig, Path]:
    """The configuration and the newest checkpoint of an earlier run.

    Args:
        folder: the run folder.
        overrides: the command line; only ``iterations=`` may go with ``resume=``.

    Raises:
        ConfigError: when there is no run, no checkpoint, or another override.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"resume={folder}: no run here (config.yaml is missing)")
    changes = [entry for entry in overrides if not entry.startswith("hydra.")]
    for entry in changes:
        if entry.lstrip("+~").partition("=")[0] not in RESUMABLE_KEYS:
            raise ConfigError(
                f"{entry}: a resumed run keeps its own configuration; only iterations= may be changed"
            )
    checkpoints = finished_checkpoints(folder / "checkpoints")
    if not checkpoints:
        raise ConfigError(f"resume={folder}: no checkpoint was written yet; start the run again")
    saved = OmegaConf.load(folder / "config.yaml")
    assert isinstance(saved, DictConfig)
    try:
        merged = OmegaConf.merge(saved, OmegaConf.from_dotlist(changes))
    except OmegaConfBaseException as error:
        raise ConfigError(f"resume={folder}: {error}") from error
    assert isinstance(merged, DictConfig)
    merged.output_dir = str(folder)
    return merged, checkpoints[-1]


def save_config(folder: Path, cfg: DictConfig) -> None:
    """The composed configuration, interpolations kept, so that it can be composed again."""
    OmegaConf.save(cfg, folder / "config.yaml")


def record_run(folder: Path) -> None:
    """Append what is needed to do the same again: command, commit and versions."""
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
