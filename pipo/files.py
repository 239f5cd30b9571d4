"""Files that are either the old ones or the new ones after a crash, never half of either."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipo.errors import ConfigError

_HALF = re.compile("[\ud800-\udfff]")


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


def has_half_pair(text: str) -> bool:
    """Whether a text holds half of a surrogate pair: JSON can say it, UTF-8 and tokenizers cannot."""
    return not text.isascii() and _HALF.search(text) is not None


def whole_text(text: str) -> str:
    """A text with every half of a surrogate pair written out, a backslash, u and its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8") if has_half_pair(text) else text


def json_text(value: Any) -> str:
    """JSON in which text stays text, for people and for grep, and which any file can hold."""
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", json.dumps(value, ensure_ascii=False))
