"""Checks of the folders that the command line names, and the commands that go on with a run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipo.errors import ConfigError
from pipo.home import typed

CONFIG_FILE = "config.yaml"


def check_place(folder: Path, key: str) -> None:
    """Look whether a folder could be made and written to; nothing is made.

    Args:
        folder: where.
        key: that names it.

    Raises:
        ConfigError: it could not.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "cannot be written to" if there.is_dir() else "is a file"
        raise ConfigError(f"{key}={folder}: no folder to write to ({there} {why}); take another")


@contextmanager
def gone_if_empty(folder: Path) -> Iterator[None]:
    """Folders that are made for this one in the meantime go again when nothing came into them."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):  # it was not made, or it holds something
                path.rmdir()


def check_output(folder: Path, key: str = "output_dir") -> None:
    """Make the folder of a run that is about to begin.

    Args:
        folder: where.
        key: that names it.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    trial = folder / ".pipo.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        at = Path(error.filename or folder)
        why = next(
            (f"{p} is a file" for p in (at, *at.parents) if p.is_file() and p != trial), error.strerror
        )
        raise ConfigError(f"{key}={folder}: no folder to write to ({why}); take another") from error


def command(program: str, *arguments: str) -> str:
    """A command line to paste; a path may hold whatever letters, see ``expand_paths``."""
    return shlex.join([*typed(program), *arguments])


def own_configuration(words: Sequence[str]) -> list[str]:
    """What of a command line names a folder of configuration of the user's own, as Hydra's option does.

    Example:
        >>> own_configuration(["train.py", "--config-dir", "my/conf", "task=mine"])
        ['--config-dir=my/conf']
    """
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, folder = word.partition("=")
        if option in ("--config-dir", "-cd"):
            found = [f"--config-dir={folder if equals else following}"]
    return found


def resuming(folder: str | Path, program: str = "train.py") -> str:
    """The command line that goes on with a run or an evaluation."""
    return command(program, f"resume={folder}")


def check_run(folder: Path) -> None:
    """Look whether this is the folder of a run that can be gone on with.

    Raises:
        ConfigError: it is not, with what may have been meant.
    """
    if (folder / CONFIG_FILE).is_file():
        return
    within = next((parent for parent in folder.parents if (parent / CONFIG_FILE).is_file()), None)
    if within is not None:
        raise ConfigError(f"resume={folder}: is inside of a run's folder; name that, resume={within}")
    if folder.is_file():
        raise ConfigError(f"resume={folder}: is a file; name the folder of a run")
    if not folder.is_dir():
        raise ConfigError(f"resume={folder}: no run here, no such folder")
    runs = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
    if runs:
        raise ConfigError(
            f"resume={folder}: holds runs, but is none; name one of them, as resume={folder / runs[0]}"
        )
    raise ConfigError(f"resume={folder}: no run here ({CONFIG_FILE} is missing)")
