"""Import what is heavy (torch, Lightning, transformers), and leave it out of garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports(*, program: bool = False) -> Iterator[None]:
    """Nothing is looked through for garbage inside.

    Half a million objects are made there that stay, and looking through them time and again takes a fifth of
    all the time until the first iteration, and once alone half a second. Afterwards they count as old ones.

    Args:
        program: of this package alone, in which they are not looked through later, either; elsewhere that is
            for :func:`left_alone`.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if not program:
            gc.unfreeze()
        if was_enabled:
            gc.enable()


@contextmanager
def left_alone() -> Iterator[None]:
    """What is there already is not looked through for garbage inside."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
