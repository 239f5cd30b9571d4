"""Atomic writes: after a crash a file is the old one or the new one, never half of either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipo.errors import ConfigError


def replace_text(path: Path, text: str) -> None:
    """Write a whole file; a reader sees what was there before, or all of ``text``."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around writing a file that the command line names: its folder is made, and what fails is one line.

    Raises:
        ConfigError: it is a folder, or cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename or path}: cannot be written ({error.strerror})") from error


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
