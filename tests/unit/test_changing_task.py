"""The task that changes: which levels come when, and what is held out."""

from __future__ import annotations

import pytest

from pipo.errors import TaskError
from pipo.tasks.changing import ChangingArithmeticTask

NUMBERS = {
    "seed": 0,
    "train_problems": 100,
    "test_problems": 20,
    "levels": {1: 1, 2: 1},
    "later_levels": {4: 1},
}


def test_easy_levels_come_first_and_later_ones_are_held_out():
    task = ChangingArithmeticTask(before_change=40, **NUMBERS)
    train = task.examples("train")
    assert {example.level for example in train[:40]} == {"1", "2"}
    assert {example.level for example in train[40:]} == {"4"}
    assert len({example.uid for example in train}) == len(train) == 100
    assert [example.level for example in task.examples("test")] == ["4"] * 20
    assert [r.score for r in task.grade(train, [f"#{example.answer}" for example in train])] == [1.0] * 100


@pytest.mark.parametrize("before", [0, 100])
def test_a_change_outside_of_the_problems_is_refused(before):
    with pytest.raises(TaskError, match="before_change must lie between 0 and train_problems=100"):
        ChangingArithmeticTask(before_change=before, **NUMBERS)
