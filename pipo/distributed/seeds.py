"""Seeds of every random choice: pure functions of the run's seed and of what is chosen."""

from __future__ import annotations

import numpy as np


def derive_seed(*parts: int) -> int:
    """A 63-bit seed that is a pure function of its parts (run seed, iteration, rank, purpose).

    Nothing else feeds the sampler's random numbers, which is what makes resuming exact.
    """
    words = np.random.SeedSequence(parts).generate_state(1, dtype=np.uint64)
    return int(words[0]) >> 1
