"""maj@n, majority voting: how often the answer that most of a problem's n responses give is right.

The n responses of a problem vote with their final answers; a response without one does not vote. Answers that
mean the same are one camp, and the largest camp wins. When several camps are equally large, one of them is
taken at random: the value is the expected one, the share of right camps among the largest, so no draw and no
order of the responses enters. With no votes at all the value is 0.

What means the same: all responses with the full score gave the reference's answer, in whatever form, so they
are one camp, and no other response belongs to it. Among the others the task decides
(:meth:`pipo.tasks.base.Task.same_answers`); an answer joins the first camp whose first answer means the same.
At most one camp is right, so the value is 1, 0, or 1/m for a tie of m camps with the right one among them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from pipo.evaluation.results import Sample

SameAnswers = Callable[[Sequence[tuple[str, str]]], list[bool]]


def majority_values(problems: Sequence[Sequence[Sample]], same_answers: SameAnswers) -> list[float]:
    """The value of each problem's vote, in [0, 1].

    Answers are compared only where the comparison can matter: not when nobody is right, and not when the
    right camp is larger than all others together.

    Args:
        problems: the graded responses of each.
        same_answers: whether two answers mean the same, for each pair; called at most once.
    """
    votes = [_votes(samples) for samples in problems]
    contested = [wrong if 0 < right <= len(wrong) else [] for right, wrong in votes]
    pairs = [list(itertools.combinations(dict.fromkeys(wrong), 2)) for wrong in contested]
    asked = [pair for of_problem in pairs for pair in of_problem]
    verdicts = iter(same_answers(asked) if asked else [])
    values = []
    for (right, wrong), of_problem in zip(votes, pairs, strict=True):
        same = {pair for pair in of_problem if next(verdicts)}
        values.append(_value(right, wrong, same))
    return values


def _votes(samples: Sequence[Sample]) -> tuple[int, list[str]]:
    """Number of right votes, and the answers of the wrong ones."""
    voting = [(sample.solved, sample.answer) for sample in samples if sample.answer is not None]
    return sum(solved for solved, _ in voting), [answer for solved, answer in voting if not solved]


def _value(right: int, wrong: Sequence[str], same: set[tuple[str, str]]) -> float:
    if right == 0:
        return 0.0
    if right > len(wrong):
        return 1.0
    sizes: dict[str, int] = {}  # by the camp's first answer
    for answer in wrong:
        camp = next((first for first in sizes if first == answer or (first, answer) in same), answer)
        sizes[camp] = sizes.get(camp, 0) + 1
    largest = max(sizes.values())
    if right != largest:
        return float(right > largest)
    return 1 / (1 + sum(size == largest for size in sizes.values()))
