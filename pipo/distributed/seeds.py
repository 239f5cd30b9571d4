"""Seeds of all random choices: pure functions of the run's seed, the purpose and what is chosen.

Nothing else feeds a random generator of a run, which is what makes resuming exact.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

FIRST_FREE = 1000
"""Purposes from here on are never this package's: for callbacks, tasks and engines of somebody else."""


class Purpose(IntEnum):
    """What a seed is for, and what :func:`derive_seed` is told besides; no two share a value."""

    SHUFFLE = 1
    """Order of the problems: epoch."""
    ROLLOUT = 2
    """Sampling of responses: iteration, rank."""
    REFILL = 3
    """Problems of a further round of dynamic sampling: iteration, round."""
    GLOBAL = 4
    """Python's, NumPy's and torch's global generators: rank."""
    SIGN = 5
    """Coin of the control that gives feedback a random sign: iteration."""
    ROWS = 6
    """Rows that a retrospective update takes: iteration, rank."""
    TURN = 7
    """Sampling of the further turns of conversations, under the seed of the first: turn."""
    ADAPTERS = 8
    """First values of adapters."""
    PRIORITY = 9
    """Problems of an iteration, where the algorithm weighs them: iteration."""


def derive_seed(seed: int, purpose: int, *chosen: int) -> int:
    """A 63-bit seed.

    Args:
        seed: of the run.
        purpose: a :class:`Purpose`; for code outside of this package, a number from :data:`FIRST_FREE` on.
        *chosen: what is chosen under this purpose, for instance iteration and rank; always as many, because
            zeros at the end do not count.

    Raises:
        ValueError: the purpose is a plain number that this package keeps for itself.
    """
    if not isinstance(purpose, Purpose) and purpose < FIRST_FREE:
        raise ValueError(f"purpose of a seed: {purpose} is kept for pipo itself, take {FIRST_FREE} or more")
    return _mixed(seed, purpose, *chosen)


def numbered_seed(seed: int, number: int) -> int:
    """The ``number``-th of many 63-bit seeds under one that was derived already.

    The collector numbers the further rounds of an iteration so, and vLLM's engine the prompts of a round.
    """
    return _mixed(seed, number)


def _mixed(*parts: int) -> int:
    words = np.random.SeedSequence(parts).generate_state(1, dtype=np.uint64)
    return int(words[0]) >> 1
