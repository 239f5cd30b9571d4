"""The grader that lies: how often, about what, and always in the same way."""

from __future__ import annotations

import pytest

from pipo.tasks.arithmetic import ArithmeticTask
from pipo.tasks.lying import LyingArithmeticTask

NUMBERS = {"seed": 0, "train_problems": 1000, "test_problems": 200, "levels": {1: 1.0}}


def test_a_share_of_the_training_verdicts_is_swapped_and_no_other():
    honest, lying = ArithmeticTask(**NUMBERS), LyingArithmeticTask(lies=0.3, **NUMBERS)
    for split, low, high in (("train", 230, 370), ("test", 0, 0)):  # binomial(1000, .3): 300 +- 5 of 14.5
        examples = honest.examples(split)
        responses = [example.answer if n % 2 else "0" for n, example in enumerate(examples)]
        true, said = honest.grade(examples, responses), lying.grade(examples, responses)
        swapped = [a.score != b.score for a, b in zip(true, said, strict=True)]
        assert low <= sum(swapped) <= high
        assert all(b.score == 1 - a.score for a, b, s in zip(true, said, swapped, strict=True) if s)
        assert said == lying.grade(examples, responses)


def test_the_same_response_twice_may_be_judged_differently():
    task = LyingArithmeticTask(lies=0.5, **NUMBERS)
    example = task.examples("train")[0]
    scores = [verdict.score for verdict in task.grade([example] * 40, [example.answer] * 40)]
    assert 5 < sum(scores) < 35


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match="lies must lie in"):
        LyingArithmeticTask(lies=1.5, **NUMBERS)
