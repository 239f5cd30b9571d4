"""Task of the user's own prompts and reward functions: rows of a file or of the hub, a Python function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipo.errors import TaskError
from pipo.graders.functions import Asked, RewardFunctions
from pipo.records.problems import Dropped, Example, Message, Prompt, Reward, Split
from pipo.tasks.base import Task
from pipo.tasks.rows import READERS, Row, Source, UnusableRow, read_examples

# Columns that TRL keeps for itself.
_RESERVED = ("prompt", "completion", "completion_ids")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class PromptExample(Example):
    """A row: its prompt, and whatever else it has."""

    prompt: str | tuple[Message, ...]
    """The prompt, a text or the turns of a conversation."""
    columns: Mapping[str, Any]
    """The other columns, which reward functions get."""


@dataclass(frozen=True, kw_only=True)
class PromptRows:
    """Where the rows are, which of them are held out, and what their columns are called."""

    path: str | None
    """A file (.jsonl, .json, .parquet, .csv) or the name of a data set on the Hugging Face hub; None where
    only ``held_out`` is scored.
    """
    config: str | None
    """Configuration of the data set on the hub; None for its only one."""
    split: str
    """Split of the data set on the hub."""
    revision: str
    """Branch, tag or commit on the hub."""
    held_out: float | int | str
    """What is held out: a share of the prompts (a fraction up to 1.0), a number of prompts, another file, or
    another split of the data set.
    """
    prompt_column: str
    """Column of the prompt: a text, or a list of messages with ``role`` and ``content``."""
    answer_column: str
    """Column that samples and reports show as the reference; it may be missing."""

    def __post_init__(self) -> None:
        held = self.held_out
        if isinstance(held, bool) or (not isinstance(held, str) and not (0 < held <= 1 or _whole(held))):
            raise ValueError(
                f"held_out={held}: a share of the prompts above 0 and up to 1.0, a whole number of them, a "
                "file, or a split of the data set"
            )

    @property
    def shared(self) -> bool:
        """Whether training and held-out rows come from one source."""
        return not isinstance(self.held_out, str)

    def source(self, split: Split) -> Source:
        """Where the rows of a split are read.

        Raises:
            TaskError: nothing says where.
        """
        if split == "test" and isinstance(self.held_out, str):
            if _is_file(self.held_out):
                return self._source(self.held_out, self.split)
            if self.path is None or _is_file(self.path):
                raise TaskError(f"held_out={self.held_out}: no such file, and no data set of the hub in path")
            return self._source(self.path, self.held_out)
        if self.path is None:
            raise TaskError("path has no value; name the rows, a file or a data set of the hub")
        return self._source(self.path, self.split)

    def _source(self, path: str, split: str) -> Source:
        local = _is_file(path)
        if not local and path.count("/") > 1:
            raise TaskError(f"{path}: no such file, and no name of a data set of the hub (owner/name)")
        return Source(
            path=path if local else None,
            hub_id="" if local else path,
            configs=(self.config,),
            split=split,
            revision=self.revision,
        )


class RewardedTask(Task[PromptExample]):
    """Puts the rows' prompts to the model and asks reward functions about the responses.

    Args:
        name: of the task, for reports and in the names of problems.
        rows: where the prompts are.
        grader: the reward functions.

    Raises:
        TaskError: later, when the rows cannot be read or lack what a function takes.
    """

    template = "rows"

    def __init__(self, *, name: str, rows: PromptRows, grader: RewardFunctions) -> None:
        self.name, self._rows, self._grader = name, rows, grader
        self.version = f"1-{grader.version}"
        self.reward_names = grader.names
        self._places: dict[str, str] = {}
        self._read: dict[Split, tuple[tuple[PromptExample, ...], tuple[Dropped, ...]]] = {}

    def examples(self, split: Split) -> Sequence[PromptExample]:
        """The prompts of a split; all rows with one prompt are in the same."""
        return self._load(split)[0]

    def dropped(self, split: Split) -> Sequence[Dropped]:
        """Rows of the split's source that gave no prompt."""
        return self._load(split)[1]

    def to_grade(self, number: int, row: Row) -> PromptExample:
        """A row with what the functions take."""
        example = self._example("test", number, row)
        if (lacks := self._grader.missing(example.columns)) is not None:
            raise UnusableRow(f"{row.place}: no field {lacks!r}, which a reward function takes")
        return example

    def render(self, example: PromptExample) -> Prompt:
        """The prompt as the row has it; a text is a user's turn for a model with a chat template."""
        if isinstance(example.prompt, str):
            return Prompt(messages=(Message(role="user", content=example.prompt),), text=example.prompt)
        return Prompt(messages=example.prompt, text=example.question)

    def grade(self, examples: Sequence[PromptExample], responses: Sequence[str]) -> list[Reward]:
        """What the functions say to the texts."""
        return self._graded(examples, responses, [None] * len(responses))

    def grade_tokens(
        self, examples: Sequence[PromptExample], responses: Sequence[str], tokens: Sequence[Sequence[int]]
    ) -> list[Reward]:
        """What the functions say to texts and tokens."""
        return self._graded(examples, responses, tokens)

    def close(self) -> None:
        """End the worker processes."""
        self._grader.close()

    def _graded(
        self,
        examples: Sequence[PromptExample],
        responses: Sequence[str],
        tokens: Sequence[Sequence[int] | None],
    ) -> list[Reward]:
        return self._grader.grade(
            [
                Asked(
                    problem=example.uid,
                    place=self._places.get(example.uid, example.uid),
                    prompt=_plain(example.prompt),
                    response=response,
                    tokens=ids,
                    columns=example.columns,
                )
                for example, response, ids in zip(examples, responses, tokens, strict=True)
            ]
        )

    def _load(self, split: Split) -> tuple[tuple[PromptExample, ...], tuple[Dropped, ...]]:
        if split not in self._read:
            if self._rows.shared:
                self._read_both()
            else:
                source = self._rows.source(split)
                self._read[split] = self._examples(split, source)
        found = self._read[split]
        if not found[0]:
            held = self._rows.held_out
            hint = "; 1.0 is a share, all of them, and 1 is one prompt" if held == 1 else ""
            raise TaskError(f"{self._rows.path}: held_out={held} leaves no prompt for training{hint}")
        return found

    def _read_both(self) -> None:
        """Deal the prompts of one source to training and held-out ones, by their text."""
        source = self._rows.source("train")
        examples, dropped = self._examples("train", source)
        keys = [_key(example) for example in examples]
        distinct = sorted(set(keys))
        held = self._rows.held_out
        assert not isinstance(held, str)
        count = held if isinstance(held, int) else max(1, round(held * len(distinct)))
        if count > len(distinct):
            raise TaskError(f"held_out={held}: {source.name} has {len(distinct)} different prompts")
        chosen = set(distinct[:count])  # hashes: these are any
        test = [
            replace(each, uid=each.uid.replace("/train/", "/test/"))
            for each, key in zip(examples, keys, strict=True)
            if key in chosen
        ]
        places = {each.uid: self._places[each.uid.replace("/test/", "/train/")] for each in test}
        self._places.update(places)
        train = tuple(each for each, key in zip(examples, keys, strict=True) if key not in chosen)
        self._read = {"train": (train, dropped), "test": (tuple(test), dropped)}

    def _examples(
        self, split: Split, source: Source
    ) -> tuple[tuple[PromptExample, ...], tuple[Dropped, ...]]:
        examples, dropped = read_examples(source, lambda i, row: self._example(split, i, row))
        columns = dict.fromkeys(name for each in examples for name in each.columns)
        self._grader.check_columns(columns, source.name)
        # What a row lacks is None, as datasets has it.
        filled = (replace(each, columns={**dict.fromkeys(columns), **each.columns}) for each in examples)
        return tuple(filled), dropped

    def _example(self, split: Split, number: int, row: Row) -> PromptExample:
        column = self._rows.prompt_column
        value = row.value(column)
        prompt = _messages(row, column, value) if isinstance(value, list | tuple) else row.text(column)
        uid = f"{self.name}/{split}/{number}"
        self._places[uid] = row.place
        return PromptExample(
            uid=uid,
            question=prompt if isinstance(prompt, str) else "\n\n".join(turn.content for turn in prompt),
            answer=_shown(row.fields.get(self._rows.answer_column)),
            prompt=prompt,
            columns={name: each for name, each in row.fields.items() if name not in _RESERVED},
        )


def _messages(row: Row, column: str, turns: Sequence[Any]) -> tuple[Message, ...]:
    """The turns of a conversation that ends with the user's."""
    found = []
    for place, turn in enumerate(turns, start=1):
        where = f"{row.place}: field {column!r}, message {place}"
        if not isinstance(turn, Mapping):
            raise UnusableRow(f"{where}: must have role and content, got {turn!r:.80}")
        role, content = turn.get("role"), turn.get("content")
        if role not in _ROLES:
            raise UnusableRow(f"{where}: role must be one of {', '.join(_ROLES)}, got {role!r:.40}")
        if not isinstance(content, str):
            raise UnusableRow(f"{where}: content must be a text, got {content!r:.80}")
        more = sorted(key for key, value in turn.items() if key not in ("role", "content") and value)
        if more:
            raise UnusableRow(f"{where}: {more[0]!r} is not read; there are role and content")
        found.append(Message(role=role, content=content))
    if not found or found[-1].role != "user" or not found[-1].content.strip():
        raise UnusableRow(f"{row.place}: field {column!r} must end with a user's message that is not blank")
    return tuple(found)


def _plain(prompt: str | tuple[Message, ...]) -> str | list[dict[str, str]]:
    if isinstance(prompt, str):
        return prompt
    return [{"role": turn.role, "content": turn.content} for turn in prompt]


def _shown(value: Any) -> str:
    """A reference as text."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def _key(example: PromptExample) -> str:
    """The same for prompts that differ in blanks alone, as where training is kept from held-out ones."""
    return hashlib.sha256(" ".join(example.question.split()).encode()).hexdigest()


def _is_file(name: str) -> bool:
    return Path(name).suffix in READERS or Path(name).expanduser().exists()


def _whole(number: float | int) -> bool:
    return isinstance(number, int) and number >= 1
