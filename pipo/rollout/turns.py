"""Conversations of several turns: the engine samples a turn, the task replies, the engine goes on from there.

A row of the result is prompt, turn, reply, turn and so on, token for token as the model read and wrote it:
nothing is rendered again, so that the log-probabilities of sampling are those of training. The limit of
response tokens covers all that follows the prompt, replies included, as the model's positions and the memory
of an update have to. A task that never replies costs nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipo.distributed.seeds import Purpose, derive_seed
from pipo.errors import TaskError
from pipo.records.problems import Example, Message, Transcript
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.engine import OnFinished, RolloutEngine
from pipo.rollout.options import SamplingParams
from pipo.tasks.base import Task
from pipo.tasks.prompts import Decode, EncodeReply

OnAnswer = Callable[[int, str], None]
"""Told of a response to which nothing will be added: its row, and what the policy said last."""


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """What the policy and the task said to each other, as tokens and as text."""

    completions: Completions
    """N rows; what the task inserted is not sampled. A conversation is finished when its last turn ended by
    itself and no reply to it had to be left out for want of room.
    """
    transcripts: tuple[Transcript, ...] | None
    """What was said after each of the N prompts; None for a task that never replies, whose turns are one."""


def converse(
    engine: RolloutEngine,
    task: Task,
    examples: Sequence[Example],
    prompt_ids: Sequence[TokenIds],
    *,
    group_size: int,
    sampling: SamplingParams,
    seed: int,
    decode: Decode,
    encode_reply: EncodeReply,
    on_answer: OnAnswer | None = None,
) -> Conversations:
    """Sample ``group_size`` responses per prompt, and further turns where the task replies.

    The engine is asked ``task.max_turns`` times, if need be without prompts, because ranks that sample
    together must ask equally often.

    Args:
        engine: samples each turn.
        task: is asked for a reply to every turn that ended by itself, but for the last one that it allows.
        examples: the problem of each prompt.
        prompt_ids: B prompts.
        group_size: G.
        sampling: how tokens are drawn; its limit covers the whole response.
        seed: of the first turn; those of further turns are derived from it.
        decode: token ids to text.
        encode_reply: what the task replied to token ids.
        on_answer: told of each response, at the latest before the next turn is sampled and at the earliest
            when its last token is drawn; not told of those that the engine does not hand over.

    Raises:
        TaskError: a reply is no text or has no tokens, or a task replies and does not say how often.
    """
    asked = [(e, p) for e, p in zip(examples, prompt_ids, strict=True) for _ in range(group_size)]
    if task.max_turns is None:
        if type(task).reply is not Task.reply:
            raise TaskError(f"{task.name}: it replies, so max_turns must say how often the policy may speak")
        tell = _decoding(on_answer, decode, [p for _, p in asked])
        drawn = engine.generate(prompt_ids, group_size, sampling, seed, tell)
        return Conversations(completions=drawn, transcripts=None)
    rows = [_Row(number, e, p, sampling.max_response_tokens) for number, (e, p) in enumerate(asked)]
    tell = _last_turn(on_answer, decode, rows) if task.max_turns == 1 else None
    _take(rows, engine.generate(prompt_ids, group_size, sampling, seed, tell), decode)
    going = rows
    for turn in range(1, task.max_turns):
        before, going = going, []
        for row in before:
            if row.is_answered(task, encode_reply):
                going.append(row)
            elif on_answer is not None:
                on_answer(row.number, row.transcript[-1].content)
        longest = max((row.room for row in going), default=1)
        contexts = [(*row.prompt, *row.ids) for row in going]
        left = sampling.model_copy(update={"max_response_tokens": longest})
        tell = _last_turn(on_answer, decode, going) if turn + 1 == task.max_turns else None
        drawn = engine.generate(contexts, 1, left, derive_seed(seed, Purpose.TURN, turn), tell)
        _take(going, drawn, decode)
    return Conversations(
        completions=_completions(rows), transcripts=tuple(tuple(row.transcript) for row in rows)
    )


class _Row:
    """A conversation that grows."""

    def __init__(self, number: int, example: Example, prompt: TokenIds, limit: int) -> None:
        self.number = number
        self.example, self.prompt, self.limit = example, prompt, limit
        self.ids: list[int] = []
        self.sampled: list[bool] = []
        self.logprobs: list[float] = []
        self.transcript: list[Message] = []
        self.finished = False

    @property
    def room(self) -> int:
        """Tokens that it may still get."""
        return self.limit - len(self.ids)

    def add(self, ids: Sequence[int], logprobs: Sequence[float], *, sampled: bool) -> None:
        """Tokens at the end."""
        self.ids += ids
        self.logprobs += logprobs
        self.sampled += [sampled] * len(ids)

    def is_answered(self, task: Task, encode_reply: EncodeReply) -> bool:
        """Ask the task for a reply to a turn that ended by itself; add it, and say whether there was one."""
        text = task.reply(self.example, tuple(self.transcript)) if self.finished else None
        if text is None:
            return False
        if not isinstance(text, str):
            raise TaskError(
                f"{type(task).__name__}.reply must return text or None, got {type(text).__name__} for "
                f"{self.example.uid}"
            )
        ids = encode_reply(text, self.ids[-1])
        if not ids:
            raise TaskError(f"{type(task).__name__}.reply: its text for {self.example.uid} has no tokens")
        if len(ids) >= self.room:
            self.finished = False  # the conversation would go on, and is cut here
            return False
        self.add(ids, [0.0] * len(ids), sampled=False)
        self.transcript.append(Message(role="user", content=text))
        return True


def _decoding(on_answer: OnAnswer | None, decode: Decode, prompts: Sequence[TokenIds]) -> OnFinished | None:
    """What an engine tells while it samples the only turn."""
    if on_answer is None:
        return None
    return lambda row, ids: on_answer(row, decode(ids, prompts[row]))


def _last_turn(on_answer: OnAnswer | None, decode: Decode, rows: Sequence[_Row]) -> OnFinished | None:
    """What an engine tells while it samples the last turn of these rows."""
    if on_answer is None:
        return None

    def tell(place: int, ids: TokenIds) -> None:
        row = rows[place]
        on_answer(row.number, decode(ids[: row.room], (*row.prompt, *row.ids)))

    return tell


def _take(rows: Sequence[_Row], drawn: Completions, decode: Decode) -> None:
    """Add a turn to each row. Rows with less room than others were sampled on beyond it, and are cut."""
    parts = zip(
        rows,
        drawn.lengths.tolist(),
        drawn.response_ids.tolist(),
        drawn.logprobs.tolist(),
        drawn.finished.tolist(),
        strict=True,
    )
    for row, length, ids, logprobs, finished in parts:
        kept = min(length, row.room)
        text = decode(ids[:kept], (*row.prompt, *row.ids))
        row.transcript.append(Message(role="assistant", content=text))
        row.add(ids[:kept], logprobs[:kept], sampled=True)
        row.finished = finished and kept == length


def _completions(rows: Sequence[_Row]) -> Completions:
    """The rows as padded tensors."""
    ids, mask = pad_rows([row.ids for row in rows])
    sampled, logprobs = torch.zeros_like(mask), torch.zeros(mask.shape)
    sampled[mask] = torch.tensor([each for row in rows for each in row.sampled], dtype=torch.bool)
    logprobs[mask] = torch.tensor([each for row in rows for each in row.logprobs])
    finished = torch.tensor([row.finished for row in rows], dtype=torch.bool)
    return Completions(
        response_ids=ids, response_mask=mask, sampled=sampled, logprobs=logprobs, finished=finished
    )
