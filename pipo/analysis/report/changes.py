"""Held-out problems before and after training, paired: gained, lost, and the test of the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipo.evaluation.compare import SEED, SIGN_PATTERNS
from pipo.evaluation.held_out import HeldOutRecord, HeldOutResponse, mostly_right
from pipo.evaluation.statistics import Estimate, estimate, sign_flip_p


@dataclass(frozen=True, kw_only=True)
class Change:
    """A problem that is answered differently."""

    before: HeldOutResponse
    """The response before training."""
    after: HeldOutResponse
    """The response after training."""
    solved_before: int
    """How many responses were right before training."""
    solved_after: int
    """How many responses were right after training."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Two evaluations of the same problems, problem by problem."""

    problems: int
    """How many problems there are."""
    samples: int
    """Responses to each problem."""
    right_twice: int
    """Problems right before and after."""
    gained: int
    """Problems wrong before and right after."""
    lost: int
    """Problems right before and wrong after."""
    wrong_twice: int
    """Problems wrong before and after."""
    recorded: int
    """Problems that are kept with a response."""
    gained_examples: Sequence[Change]
    """Some of the gained problems among the recorded ones."""
    lost_examples: Sequence[Change]
    """Some of the lost problems among the recorded ones."""
    difference: Estimate
    """Difference of pass@1, paired, with its interval."""
    p: float
    """p-value of the sign-flip test that it is chance."""


def find_changes(
    before: HeldOutRecord,
    after: HeldOutRecord,
    *,
    examples: int,
    confidence: float,
    resamples: int,
    seed: int,
) -> Changes:
    """Compare the two.

    Args:
        before: the model as it came.
        after: the trained model.
        examples: how many are shown of each kind.
        confidence: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: when the two are not about the same problems.
    """
    pairs = list(zip(before.responses, after.responses, strict=False))
    same = all(old.uid == new.uid for old, new in pairs) and len(before.responses) == len(after.responses)
    if not same or len(before.solved) != len(after.solved) or before.samples != after.samples:
        raise ValueError("held_out: before.json and after.json are not about the same problems")
    n = before.samples
    old = np.array([mostly_right(solved, n) for solved in before.solved])
    new = np.array([mostly_right(solved, n) for solved in after.solved])
    deltas = (np.array(after.solved) - np.array(before.solved)) / n

    def shown(right_before: bool) -> list[Change]:
        found = [
            Change(
                before=was,
                after=now,
                solved_before=before.solved[was.index],
                solved_after=after.solved[was.index],
            )
            for was, now in pairs
            if old[was.index] == right_before and new[was.index] != right_before
        ]
        return found[:examples]

    return Changes(
        problems=len(old),
        samples=n,
        right_twice=int((old & new).sum()),
        gained=int((~old & new).sum()),
        lost=int((old & ~new).sum()),
        wrong_twice=int((~old & ~new).sum()),
        recorded=len(pairs),
        gained_examples=shown(False),
        lost_examples=shown(True),
        difference=estimate(deltas, confidence, resamples, seed, share=False),
        p=sign_flip_p(deltas, SIGN_PATTERNS, SEED),
    )
