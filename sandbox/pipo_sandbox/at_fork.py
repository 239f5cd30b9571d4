"""Keep the standard library's steps after a fork back from the sandbox's own forks.

``threading`` and ``random`` each register a step, for processes with several threads and for children that
must not draw the same numbers. The launcher and what it forks have one thread, and every program gets new
random numbers anyway (``confinement.fresh_module``). So the steps do nothing for them, but touch, and so
copy, more pages of memory than the rest of a fork. A program that can fork itself gets them back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_held: list[dict[str, Callable[[], object]]] = []


@contextmanager
def held_back() -> Iterator[None]:
    """Keep back what is registered meanwhile, by modules that are imported for the first time."""
    register, os.register_at_fork = os.register_at_fork, _hold
    try:
        yield
    finally:
        os.register_at_fork = register


def _hold(**steps: Callable[[], object]) -> None:
    _held.append(steps)


def give_back() -> None:
    """Register what was kept back, for a process whose program may fork."""
    while _held:
        os.register_at_fork(**_held.pop(0))
