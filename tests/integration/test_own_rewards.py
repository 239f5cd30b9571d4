"""The files of docs/tasks/prompts.md are enough to train and score with; rows of all kinds, and mistakes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from pipo.config.command_line import expand_task
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.errors import ConfigError, TaskError
from pipo.scoring import score
from pipo.tasks.base import Task
from pipo.tasks.rewarded import PromptExample, RewardedTask
from pipo.training import train
from tests.built import at_its_task
from tests.conftest import ROOT

Compose = Callable[..., DictConfig]
EXACT = f"reward={ROOT / 'tests/data/own_rewards.py'}:exact"


def page_files(folder: Path) -> None:
    """The two files that the page shows, the rows' file with some more of its kind."""
    page = (ROOT / "docs/tasks/prompts.md").read_text()
    (python,) = re.findall(r"```python\n# my_rewards\.py\n(.*?)```", page, re.DOTALL)
    (rows,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    more = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(20, 30) for b in range(10, 14)]
    (folder / "my_rewards.py").write_text(python)
    (folder / "data.jsonl").write_text(rows + "".join(json.dumps(row) + "\n" for row in more))


def task_of(compose: Compose, *words: str) -> RewardedTask:
    config = read(compose("task=prompts", *words, "output_dir=x"), TrainConfig)
    task = config.task.source.build(Task)
    assert isinstance(task, RewardedTask)
    return task


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_the_pages_files_train_and_score(
    compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["reward=[my_rewards.py:exact,my_rewards.py:short]", "reward_weights=[1,0.5]", "task.held_out=3"]
    words += ["task.path=data.jsonl", "task.correct_by=exact", "task.max_response_tokens=24"]
    small = ["recipe.responses=32", "recipe.mini_batch=32", "iterations=1", "samples.every=1"]
    train(compose_config("task=prompts", *words, *small, "evaluation.problems=3", "output_dir=run"), [])
    (row,) = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    # The sum with its weights; right by exact alone; a length is so many hundredths off.
    exact, short = row["train/rewards/exact"], row["train/rewards/short"]
    assert row["train/reward"] == pytest.approx(exact + 0.5 * short, abs=1e-6)
    assert row["train/accuracy"] == exact
    assert short == pytest.approx(-0.01 * row["train/response_length"], abs=1e-6)
    samples = [json.loads(line) for line in Path("run/samples.jsonl").read_text().splitlines()]
    assert samples
    for sample in samples:
        assert sample["rewards"]["exact"] == sample["response"].strip().endswith(sample["reference"])
        assert sample["reward"] == sample["rewards"]["exact"] + 0.5 * sample["rewards"]["short"]
    # What the run says at its end scores its held-out prompts again, with the same settings.
    said = next(line for line in capsys.readouterr().out.splitlines() if "eval.py" in line)
    typed = shlex.split(said)[2:]
    assert set(words) | {"task=prompts"} < set(typed)
    expand_task(typed)
    typed = [word for word in typed if not word.startswith("model=")]
    score(
        compose_config(*typed, "evaluation.samples=2", "evaluation.ks=[1]", "output_dir=e", name="eval"), []
    )
    scored = [json.loads(line) for line in Path("e/samples.jsonl").read_text().splitlines()]
    assert len(scored) == 3
    for sample in (sample for problem in scored for sample in problem["samples"]):
        assert sample["right"] == (sample["rewards"]["exact"] == 1)
    held_out = {each["prompt"] for each in scored}
    assert not held_out & {sample["prompt"] for sample in samples}


@pytest.mark.parametrize(("held_out", "count"), [("0.2", 4), ("3", 3), ("1.0", 20)])
def test_prompts_are_held_out_by_their_text(
    compose_config: Compose, tmp_path: Path, held_out: str, count: int
) -> None:
    twice = [{"prompt": f"{' ' * (i // 20)}{i % 20}+1=", "answer": str(i)} for i in range(40)]
    path = written(tmp_path / "rows.jsonl", twice)
    task = task_of(compose_config, f"task.path={path}", EXACT, f"task.held_out={held_out}")
    test = [example.question.strip() for example in task.examples("test")]
    assert len(test) == 2 * count
    assert len(set(test)) == count
    assert all(e.uid.startswith("prompts/test/") for e in task.examples("test"))
    if count == 20:
        with pytest.raises(
            TaskError, match=r"rows\.jsonl: held_out=1\.0 leaves no prompt for training; 1\.0 is a"
        ):
            task.examples("train")
    else:
        assert not set(test) & {example.question.strip() for example in task.examples("train")}
        assert len(task.examples("train")) == 40 - 2 * count
    task.close()


def test_another_file_is_held_out_and_a_column_may_be_called_otherwise(
    compose_config: Compose, tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text('question,answer,n\n"a, ""b""?",x,1\nc?,y,\ntoo,many,columns,here\n')
    test = written(tmp_path / "test.jsonl", [{"question": "d?", "answer": "z"}])
    words = [f"task.path={tmp_path / 'train.csv'}", f"task.held_out={test}", "task.prompt_column=question"]
    task = task_of(compose_config, *words, EXACT)
    first, second = task.examples("train")
    assert (first.question, first.answer, first.columns["n"]) == ('a, "b"?', "x", 1)
    assert second.columns == {"question": "c?", "answer": "y", "n": None}
    (dropped,) = task.dropped("train")
    assert dropped.place == f"{tmp_path / 'train.csv'}, row 3"
    assert dropped.reason == "4 columns, and the first line names 3"
    assert [example.question for example in task.examples("test")] == ["d?"]
    task.close()


def test_a_conversation_is_a_prompt_and_a_row_that_is_none_is_named(
    compose_config: Compose, tmp_path: Path
) -> None:
    def turns(*said: tuple[str, Any]) -> dict[str, Any]:
        return {"prompt": [{"role": role, "content": text} for role, text in said], "answer": ["4"]}

    rows: list[Any] = [
        turns(("system", "Be brief."), ("user", "2+2?")),
        turns(("user", "2+2?"), ("assistant", "4")),
        turns(("tool", "4")),
        turns(("user", [{"type": "image"}])),
        {"prompt": [{"role": "user", "content": "?", "tool_calls": [1]}]},
        {"prompt": 3},
        {"question": "?"},
        "{",
        {"prompt": "plain"},
    ]
    path = written(tmp_path / "rows.jsonl", rows)
    task = task_of(compose_config, f"task.path={path}", EXACT, "task.held_out=1.0")
    said, plain = task.examples("test")
    prompt = task.render(said)
    assert [(turn.role, turn.content) for turn in prompt.messages] == [
        ("system", "Be brief."),
        ("user", "2+2?"),
    ]
    assert (prompt.text, said.answer) == ("Be brief.\n\n2+2?", '["4"]')
    assert isinstance(plain, PromptExample)
    assert plain.columns == {"answer": None}  # as the other rows have it
    assert [(row.place.rpartition(" ")[2], row.reason) for row in task.dropped("test")] == [
        ("2", "field 'prompt' must end with a user's message that is not blank"),
        ("3", "field 'prompt', message 1: role must be one of system, user, assistant, got 'tool'"),
        ("4", "field 'prompt', message 1: content must be a text, got [{'type': 'image'}]"),
        ("5", "field 'prompt', message 1: 'tool_calls' is not read; there are role and content"),
        ("6", "field 'prompt' must be a text that is not blank, got 3"),
        ("7", "no field 'prompt'; there are ['question']"),
        ("8", "malformed JSON (Expecting property name enclosed in double quotes, column 2)"),
    ]
    task.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.path=rows.jsonl"], r"^reward has no value; set it, for example reward=\.\.\.$"),
        ([EXACT], r"^task: path has no value; name the rows, a file or a data set of the hub$"),
        ([EXACT, "task.path=none.jsonl"], r"^task: none\.jsonl: no such file$"),
        ([EXACT, "task.path=a/b/c"], r"^task: a/b/c: no such file, and no name of a data set of the hub"),
        (
            [EXACT, "task.path=rows.jsonl", "task.held_out=test"],
            r"held_out=test: no such file, and no data s",
        ),
        (
            [EXACT, "task.path=rows.jsonl", "task.held_out=-1"],
            r"^task\.source\.rows: held_out=-1: a share of",
        ),
        ([EXACT, "task.path=rows.jsonl", "task.held_out=9"], r"held_out=9: rows\.jsonl has 2 different prom"),
        (
            [EXACT, "task.path=bare.jsonl"],
            r"exact: takes 'answer', which no row of bare\.jsonl has; columns: ",
        ),
        (
            ["reward=rows.py:f", "task.path=rows.jsonl"],
            r"^task\.source\.grader: reward=rows\.py:f: there is no",
        ),
        (["reward=3", "task.path=rows.jsonl"], r"^reward: expected str or a list, got 3$"),
        ([EXACT, "task.path=rows.jsonl", "task.source.grader.cpu_s=0"], r"cpu_s must be a positive number"),
    ],
)
def test_mistakes_are_one_line(
    compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "rows.jsonl", [{"prompt": "1+1=", "answer": "2"}, {"prompt": "1+2=", "answer": "3"}])
    written(tmp_path / "bare.jsonl", [{"prompt": "1+1="}])

    def load() -> None:
        setup = at_its_task(read(compose_config("task=prompts", *words, "output_dir=x"), TrainConfig))
        try:
            setup.problems("train")
        finally:
            setup.task.close()

    with pytest.raises(ConfigError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)
