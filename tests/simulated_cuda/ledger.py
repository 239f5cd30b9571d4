"""What a program does that a GPU makes it wait for, by phase, kind and line of the package."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[2]

Kind = Literal["read", "shape", "sent", "pinned"]
"""``read``: a value or a tensor comes to the CPU. ``shape``: a size depends on values (boolean index,
nonzero). ``sent``: a tensor goes to the GPU. All three wait until the GPU has done all that it was told.
``pinned``: a tensor goes to the GPU out of page-locked memory, and nobody waits."""

WAITS = ("read", "shape", "sent")

# Functions whose callees belong to a phase; the outermost one counts.
PHASES: Mapping[str, str] = {
    "configure_model": "set up",
    "generate": "sampling",
    "score_responses": "scoring",
    "_optimizer_step": "update",
}


class Place(NamedTuple):
    """Where something happened."""

    phase: str
    """One of :data:`PHASES`, or ``other``."""
    kind: Kind
    """See :data:`Kind`."""
    line: str
    """File and line of the package, the innermost; ``autograd`` in the thread of the backward pass."""


class Ledger:
    """Counts since the program began, or since :meth:`clear`."""

    def __init__(self) -> None:
        self.counts: Counter[Place] = Counter()

    def clear(self) -> None:
        """Count anew."""
        self.counts.clear()

    def note(self, kind: Kind) -> None:
        """One more, done by whoever called."""
        phase, line = _caller()
        self.counts[Place(phase, kind, line)] += 1


def _caller() -> tuple[str, str]:
    """Phase, and innermost line of the package."""
    package = f"{ROOT / 'pipo'}/"
    phase, line, frame = None, None, sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(package):
            line = line or f"{Path(code.co_filename).relative_to(ROOT)}:{frame.f_lineno}"
            phase = PHASES.get(code.co_name, phase)
        frame = frame.f_back
    if phase is None and _in_autograd_thread():
        return "update", line or "autograd"
    return phase or "other", line or "outside"


def _in_autograd_thread() -> bool:
    """Whether this is a thread of torch's own, where backward passes through a GPU's tensors run."""
    return threading.current_thread() is not threading.main_thread()
