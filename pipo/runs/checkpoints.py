"""Checkpoints on disk: a manifest with the SHA-256 of every file, verification, pruning.

A checkpoint is a folder::

    iteration_000050.ckpt/
      state            what Lightning saved: a file, or a folder of one file per process
      manifest.json    iteration, processes, held-out accuracy; size and SHA-256 of every other file

It is written under a hidden name and gets its own in one step, so a folder with that name is complete;
the manifest tells whether it still is what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipo.errors import ConfigError
from pipo.runs.files import replace_text, sync

STATE = "state"
MANIFEST = "manifest.json"
BEST = "best.ckpt"
_NAME = re.compile(r"iteration_(\d+)\.ckpt")


class DamagedCheckpoint(ConfigError):
    """A checkpoint is not what was written. The message names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class FileMark:
    """What a file must be."""

    bytes: int
    """Size of the file."""
    sha256: str
    """SHA-256 of its content, hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says about itself."""

    iterations: int
    """How many iterations were finished."""
    processes: int
    """How many processes trained together."""
    accuracy: float | None
    """Held-out pass@1 of exactly these weights; None when it was not measured then."""
    files: dict[str, FileMark]
    """Path inside the checkpoint -> what the file there must be."""


def checkpoint_name(iterations: int) -> str:
    """Name of the checkpoint after so many iterations."""
    return f"iteration_{iterations:06d}.ckpt"


def finished_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted((p for p in folder.glob("iteration_*.ckpt") if _NAME.fullmatch(p.name)), key=iterations_of)


def iterations_of(checkpoint: Path) -> int:
    """How many iterations were finished when it was written."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint}: not a checkpoint's name")
    return int(match.group(1))


def state_files(checkpoint: Path) -> list[str]:
    """Every file but the manifest, by its path inside the checkpoint."""
    found = (p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file())
    return sorted(name for name in found if name != MANIFEST)


class HashedFile:
    """A new binary file that is hashed as it is written, so that nobody has to read it again for that."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        """Append."""
        self._digest.update(data)
        self._bytes += memoryview(data).nbytes
        return self._file.write(data)

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()

    @property
    def mark(self) -> FileMark:
        """What was written so far."""
        return FileMark(bytes=self._bytes, sha256=self._digest.hexdigest())


def mark_files(
    checkpoint: Path, names: Sequence[str], written: Mapping[str, FileMark] | None = None
) -> dict[str, FileMark]:
    """Bring files to the disk and note what they are; ``written`` says what is known of some of them."""
    for name in names:
        sync(checkpoint / name)
    known = written or {}
    return {name: known[name] if name in known else _mark(checkpoint / name) for name in names}


def commit(partial: Path, checkpoint: Path, manifest: Manifest) -> None:
    """Give a written folder its manifest and, in one step, its name."""
    content = asdict(manifest)
    content["checksum"] = _checksum(content)
    replace_text(partial / MANIFEST, json.dumps(content, indent=2) + "\n")
    for folder in {(partial / name).parent for name in manifest.files}:
        sync(folder)
    if checkpoint.exists():
        discard(checkpoint)
    os.rename(partial, checkpoint)
    sync(checkpoint.parent)


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest.

    Raises:
        DamagedCheckpoint: when it is missing or not what was written.
    """
    path = checkpoint / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        checksum = content.pop("checksum")
        if checksum != _checksum(content):
            raise DamagedCheckpoint(f"{path}: is not what was written")
        files = {name: FileMark(**mark) for name, mark in content.pop("files").items()}
        return Manifest(files=files, **content)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{path}: is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DamagedCheckpoint):
            raise
        raise DamagedCheckpoint(f"{path}: is not what was written") from error


def verify(checkpoint: Path) -> Manifest:
    """Read every byte and compare it with what was written.

    Raises:
        DamagedCheckpoint: naming the first file that differs.
    """
    manifest = read_manifest(checkpoint)
    named = _NAME.fullmatch(checkpoint.name)
    if named is not None and manifest.iterations != int(named.group(1)):
        raise DamagedCheckpoint(f"{checkpoint}: was written after {manifest.iterations} iterations")
    for name, mark in manifest.files.items():
        path = checkpoint / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path}: is missing")
        try:
            found = path.stat().st_size
            if found == mark.bytes and _mark(path) != mark:
                raise DamagedCheckpoint(f"{path}: has another SHA-256 than when it was written")
        except FileNotFoundError as error:  # another process has just set it aside
            raise DamagedCheckpoint(f"{path}: is missing") from error
        if found != mark.bytes:
            raise DamagedCheckpoint(f"{path}: has {found} bytes instead of {mark.bytes}")
    return manifest


def prune(folder: Path, keep: int, keep_best: bool) -> None:
    """Leave the newest and, if wanted, the best by held-out accuracy, which ``best.ckpt`` points to.

    Of equally accurate ones the oldest is the best. Whose manifest cannot be read has no accuracy.
    """
    kept = finished_checkpoints(folder)
    best = _best(kept) if keep_best else None
    for old in kept[:-keep]:
        if old != best:
            discard(old)
    if best is not None:
        _point(folder / BEST, best.name)


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint so that nothing takes it for one; it stays for its owner to look at."""
    target = checkpoint.with_name(f"damaged_{checkpoint.name}")
    if target.exists():
        shutil.rmtree(target)
    os.rename(checkpoint, target)
    return target


def discard(checkpoint: Path) -> None:
    """Delete; a crash half-way leaves nothing that looks like a checkpoint."""
    hidden = partial_path(checkpoint)
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(checkpoint, hidden)
    shutil.rmtree(hidden)


def partial_path(checkpoint: Path) -> Path:
    """Where a checkpoint is written before it is complete."""
    return checkpoint.with_name(f".{checkpoint.name}.partial")


def sweep(folder: Path) -> None:
    """Delete what a killed save, deletion or replacement left behind in a folder."""
    for left in folder.glob(".*.partial"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


def _best(checkpoints: Sequence[Path]) -> Path | None:
    best, highest = None, float("-inf")
    for checkpoint in checkpoints:
        try:
            accuracy = read_manifest(checkpoint).accuracy
        except DamagedCheckpoint:
            continue
        if accuracy is not None and accuracy > highest:
            best, highest = checkpoint, accuracy
    return best


def _point(link: Path, target: str) -> None:
    if link.is_symlink() and os.readlink(link) == target:
        return
    temporary = partial_path(link)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _mark(path: Path) -> FileMark:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileMark(bytes=path.stat().st_size, sha256=digest)


def _checksum(content: dict[str, Any]) -> str:
    plain = json.dumps(content, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()
