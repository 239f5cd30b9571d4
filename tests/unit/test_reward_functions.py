"""Reward functions of the user's own: what they get, what they may return, what a failure costs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipo.errors import TaskError
from pipo.graders.functions import Asked, RewardFunctions, _calls
from pipo.records.problems import Reward

FUNCTIONS = """
import functools, os

def exact(completions, answer):
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]

def everything(prompts, completions, completion_ids, **columns):
    assert sorted(columns) == ["answer", "log_extra", "log_metric", "note"], sorted(columns)
    columns["log_extra"]("seen", [f"{p}|{c}|{i}|{n}" for p, c, i, n in
                                  zip(prompts, completions, completion_ids, columns["note"])])
    return [len(ids) / 10 for ids in completion_ids]

def of_messages(completions, **kwargs):
    return [float(completion[0]["content"] == "yes") for completion in completions]

async def waits(completions, **kwargs):
    import asyncio
    await asyncio.sleep(0)
    return tuple(float(len(text)) for text in completions)

class Scaled:
    def __init__(self, by):
        self.by = by
    def __call__(self, completions, **kwargs):
        return [self.by * len(text) for text in completions]

scaled = Scaled(0.5)
half = functools.partial(lambda completions, by, **kw: [by] * len(completions), by=0.5)

def sometimes(completions, **kwargs):
    return [None if text == "?" else float("nan") if text == "??" else 1 for text in completions]

def penalty(completions, **kwargs):
    return [-2.0 if text == "bad" else 0.5 for text in completions]

def odd(completions, **kwargs):
    if "boom" in completions:
        raise ValueError("cannot read it")
    if "die" in completions:
        os._exit(3)
    if "spin" in completions:
        while True: pass
    if "sleep" in completions:
        import time
        time.sleep(60)
    return [1.0] * len(completions)

def always(completions):
    return [1 / 0]

def compares(completions, **kwargs):
    return [float(len(completions))] * len(completions)

def draws(completions, **kwargs):
    import random
    return [random.random() for _ in completions]

def fewer(completions): return [1.0]
def texts(completions): return ["1"] * len(completions)
def unbounded(completions): return [float("inf")] * len(completions)
def nothing(completions): pass
def singular(completion, answer): return [1.0]
def stateful(completions, trainer_state): return [1.0]
number = 3
"""
Make = Callable[..., RewardFunctions]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Functions of one file, by their names."""
    file, made = tmp_path / "mine.py", []
    file.write_text(FUNCTIONS)

    def build(*names: str, **options: Any) -> RewardFunctions:
        given = {"weights": None, "correct": 1.0, "correct_by": None, "batch": 64, "workers": 2}
        given |= {"cpu_s": 5.0, "wall_s": 30.0, "batch_s": 60.0} | options
        made.append(RewardFunctions(functions=[f"{file}:{name}" for name in names], **given))
        return made[-1]

    yield build
    for each in made:
        each.close()


def asked(*responses: str, prompt: Any = "2+2=", answer: str = "4", per_problem: int = 1) -> list[Asked]:
    return [
        Asked(
            problem=f"x/{i // per_problem}",
            place=f"data.jsonl, line {i // per_problem + 1}",
            prompt=prompt,
            response=text,
            tokens=list(range(len(text))),
            columns={"answer": answer, "note": i},
        )
        for i, text in enumerate(responses)
    ]


def scores(rewards: list[Reward]) -> list[float]:
    return [reward.score for reward in rewards]


def test_a_function_gets_what_it_names_or_everything(make: Make) -> None:
    functions = make("exact", "everything", weights=[1.0, 10.0])
    assert functions.names == ("exact", "everything")
    right, wrong = functions.grade(asked("4", "five"))
    assert (right.rewards, wrong.rewards) == (
        {"exact": 1.0, "everything": 0.1},
        {"exact": 0.0, "everything": 0.4},
    )
    assert (right.score, wrong.score) == (1.0 * 1 + 10 * 0.1, 10 * 0.4)
    assert right.noted == {"seen": "2+2=|4|[0]|0"}
    assert wrong.noted == {"seen": "2+2=|five|[0, 1, 2, 3]|1"}


def test_messages_are_answered_with_messages_and_functions_may_be_async_objects_or_partials(
    make: Make,
) -> None:
    turns = [{"role": "user", "content": "Well?"}]
    assert scores(make("of_messages").grade(asked("yes", "no", prompt=turns))) == [1.0, 0.0]
    functions = make("waits", "scaled", "half")
    assert functions.names == ("waits", "Scaled", "<lambda>")
    assert scores(functions.grade(asked("a", "bcd"))) == [1 + 0.5 + 0.5, 3 + 1.5 + 0.5]


def test_none_and_nan_say_that_a_function_does_not_apply(make: Make) -> None:
    one, two, three = make("sometimes", "exact").grade(asked("?", "??", "4"))
    assert one.rewards == {"sometimes": None, "exact": 0.0}
    assert (one.score, one.error, one.solved) == (0.0, None, False)
    assert (two.rewards or {})["sometimes"] is None
    assert (three.score, three.solved) == (2.0, True)
    (alone,) = make("sometimes").grade(asked("?"))
    assert (alone.score, alone.error) == (0.0, "no reward function applies to it")


def test_responses_to_which_nothing_applies_are_said_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    functions = make("sometimes")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            functions.grade(asked("4", "?", "??"))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("sometimes: None or NaN for 2 of 3 responses, which score 0")


def test_a_reward_outside_of_zero_and_one_is_used_as_it_is_and_said_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    functions = make("penalty", "exact", correct=1.5)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            bad, good = functions.grade(asked("bad", "4"))
    assert (bad.score, bad.solved, good.score, good.solved) == (-2.0, False, 1.5, True)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("penalty: a reward of -2 (data.jsonl, line 1) lies outside [0, 1]")
    # By one function alone: 4 is right for it, whatever the sum is.
    judged = make("penalty", "exact", weights=[-9.0, 1.0], correct_by="exact").grade(asked("bad", "4"))
    assert [(each.score, each.solved) for each in judged] == [(18.0, False), (-3.5, True)]


def test_an_exception_costs_its_own_answer_and_names_row_and_line(make: Make) -> None:
    fine, odd, last = make("odd", "exact").grade(asked("4", "boom", "5"))
    assert (scores([fine, last]), fine.error, last.error) == ([2.0, 1.0], None, None)
    line = FUNCTIONS.splitlines().index('        raise ValueError("cannot read it")') + 1
    assert odd.error == f"data.jsonl, line 2: odd: ValueError: cannot read it (mine.py, line {line})"
    assert (odd.score, odd.solved, odd.infrastructure) == (0.0, False, False)


def test_a_process_that_dies_or_spins_costs_its_own_answer(make: Make) -> None:
    rewards = make("odd", cpu_s=0.2).grade(asked("a", "die", "spin", "b"))
    assert scores(rewards) == [1.0, 0.0, 0.0, 1.0]
    assert rewards[1].error == "data.jsonl, line 2: odd: worker died (exit code 3)"
    assert rewards[2].error == "data.jsonl, line 3: odd: took more than 0.2 s of processor time"
    assert not rewards[1].infrastructure


def test_what_has_no_reward_in_time_is_the_machines_fault(make: Make) -> None:
    (late,) = make("odd", batch_s=0.5).grade(asked("sleep"))
    assert (late.score, late.infrastructure) == (0.0, True)
    assert late.error == "data.jsonl, line 1: odd: there was no time left for it"


def test_a_function_that_fails_on_everything_ends_the_run_unless_it_was_one_problem(make: Make) -> None:
    with pytest.raises(
        TaskError, match=r"^reward: always fails on every response; data.jsonl, line 1: .*Zero"
    ):
        make("always").grade(asked("a", "b"))
    assert scores(make("always").grade(asked("a", "b", per_problem=2))) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fewer", r"it must return a reward for each of 2 responses, got 1$"),
        ("texts", r"it must return numbers, got '1' for response 0$"),
        ("unbounded", r"it must return finite numbers, got inf for response 0$"),
        ("nothing", r"it must return a list of 2 numbers, got NoneType None$"),
    ],
)
def test_what_is_no_list_of_rewards_ends_the_run(make: Make, name: str, message: str) -> None:
    with pytest.raises(TaskError, match=rf"^reward=.*mine\.py:{name}: {message}"):
        make(name).grade(asked("a", "b"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("exakt", {}, r"mine\.py:exakt: 'exakt' is no function there; it has always, compares, "),
        ("number", {}, r"mine\.py:number: 'number' is no function there"),
        ("exact", {"weights": [1.0, 2.0]}, r"reward_weights=\[1\.0, 2\.0\]: 2 weights for 1 functions"),
        ("exact", {"correct_by": "other"}, r"correct_by=other: the functions are exact"),
    ],
)
def test_what_cannot_be_called_is_refused(make: Make, name: str, options: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(name, **options)


def test_two_of_one_name_and_files_that_cannot_be_read_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="'Scaled' is a class; name a function, or an object of the class"):
        make("Scaled")
    with pytest.raises(TaskError, match="two functions of one name cannot be told apart"):
        make("exact", "exact")
    (tmp_path / "broken.py").write_text("import nowhere_at_all\n")
    for spec, message in (
        (f"{tmp_path}/none.py:f", "there is no such file"),
        (
            f"{tmp_path}/broken.py:f",
            r"it cannot be imported, ModuleNotFoundError: .*nowhere_at_all.*line 1\)",
        ),
        ("nowhere_at_all.rewards:f", "it cannot be imported, ModuleNotFoundError"),
        ("exact", r"reward=exact: name a function as file\.py:function or package\.module:function"),
    ):
        with pytest.raises(TaskError, match=message):
            RewardFunctions(
                functions=spec, weights=None, correct=1.0, correct_by=None, batch=1, workers=1, cpu_s=1.0,
                wall_s=2.0, batch_s=9.0,
            )  # fmt: skip


def test_columns_are_compared_with_what_the_functions_take(make: Make) -> None:
    functions = make("exact", "everything")
    functions.check_columns(["answer", "note"], "data.jsonl")
    message = r"mine\.py:exact: takes 'answer', which no row of data\.jsonl has; columns: solution$"
    with pytest.raises(TaskError, match=message):
        functions.check_columns(["solution"], "data.jsonl")
    with pytest.raises(TaskError, match=r"columns: anser, note; did you mean anser\?$"):
        functions.check_columns(["anser", "note"], "data.jsonl")
    with pytest.raises(TaskError, match=r"columns: answer; did you mean completions\?$"):
        make("singular").check_columns(["answer"], "data.jsonl")
    with pytest.raises(TaskError, match=r"^data\.jsonl: a column called 'completions' would hide"):
        functions.check_columns(["answer", "completions"], "data.jsonl")
    with pytest.raises(TaskError, match=r"mine\.py:stateful: takes trainer_state, which is not given: "):
        make("stateful").check_columns([], "data.jsonl")


def test_all_responses_to_a_problem_are_in_one_call(make: Make) -> None:
    four_each = asked(*"abcdefgh", per_problem=4) + asked("i")
    assert [len(rows) for rows in _calls(four_each, 5)] == [4, 5]
    assert [len(rows) for rows in _calls(four_each, 3)] == [4, 4, 1]
    assert [len(rows) for rows in _calls(four_each, 99)] == [9]
    assert list(_calls([], 3)) == []
    assert scores(make("compares", batch=3).grade(four_each)) == [4.0] * 8 + [1.0]


def test_random_rewards_repeat(make: Make) -> None:
    first, second = make("draws"), make("draws")
    assert first.grade(asked("a", "b")) == second.grade(asked("a", "b"))
    assert first.grade(asked("a", "b")) != first.grade(asked("a", "c"))


def test_a_file_that_changes_is_noticed_when_a_worker_starts_anew(make: Make, tmp_path: Path) -> None:
    functions = make("exact")
    version = functions.version
    (tmp_path / "mine.py").write_text(FUNCTIONS.replace("text == right", "text != right"))
    assert scores(functions.grade(asked("4"))) == [1.0]  # the worker that is there has it in memory
    functions.close()
    with pytest.raises(TaskError, match=r"mine\.py:exact: its file has changed since the run began"):
        functions.grade(asked("4"))
    assert make("exact").version != version
