"""Episodes of several turns: the engine samples a turn, the environment replies, the engine goes on.

A row of the result is prompt, turn, reply, turn and so on, token for token as the model read and wrote it:
nothing is rendered again, so that the log-probabilities of sampling are those of training. The limit of
response tokens covers all that follows the prompt, replies included, as the model's positions and the memory
of an update have to. A task without environments costs nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from pipo.distributed.seeds import Purpose, derive_seed
from pipo.errors import TaskError
from pipo.records.problems import Example, Message, Reply, Reward, Transcript
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.engine import OnFinished, RolloutEngine
from pipo.rollout.options import SamplingParams
from pipo.rollout.stepping import Environments
from pipo.tasks.base import Task
from pipo.tasks.prompts import Decode, EncodeReply

Timer = Callable[[str], AbstractContextManager[None]]
"""Measures the seconds inside under a name."""
OnAnswer = Callable[[int, str], None]
"""Told of a response that the task will grade and to which nothing will be added: its row, and what the
policy said last."""


def untimed(name: str) -> AbstractContextManager[None]:
    """Nothing is measured."""
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Episode:
    """What the policy and its environment said and did to each other after a prompt."""

    transcript: Transcript
    """All that was said; the policy speaks first and last."""
    reward: Reward | None
    """The environment's last verdict; None where it gave none."""
    tool_calls: int
    """Calls that the policy's turns made."""
    tool_errors: int
    """Those that failed."""
    turns: int
    """How often the policy spoke."""
    user_tokens: int
    """Tokens that the policy read in replies of a user."""
    tool_tokens: int
    """Tokens that it read in replies of a tool; a reply of both counts here as a whole."""


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """What was sampled, and what was said to it."""

    completions: Completions
    """N rows; what an environment inserted is not sampled. A row is finished when its last turn ended by
    itself and no reply to it had to be left out for want of room.
    """
    episodes: tuple[Episode, ...] | None
    """N episodes; None for a task without environments, whose turns are one."""


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
    timer: Timer = untimed,
) -> Conversations:
    """Sample ``group_size`` responses per prompt, and further turns where an environment replies.

    The engine is asked ``task.max_turns`` times, if need be without prompts, because ranks that sample
    together must ask equally often. Episodes go on together, turn by turn, and leave when they are over.

    Args:
        engine: samples each turn.
        task: makes an environment for each response, if it has some.
        examples: the problem of each prompt.
        prompt_ids: B prompts.
        group_size: G.
        sampling: how tokens are drawn; its limit covers the whole response.
        seed: of the first turn; those of further turns are derived from it.
        decode: token ids to text.
        encode_reply: what an environment said to token ids.
        on_answer: told of each response that the task will grade; without environments at the earliest when
            its last token is drawn, with them when its episode is over.
        timer: measures "generate", what the engine takes, and "environment", what is waited for then.

    Raises:
        TaskError: a reply is none or has no tokens, or the task does not say how often the policy may speak.
    """
    asked = [(e, p) for e, p in zip(examples, prompt_ids, strict=True) for _ in range(group_size)]
    if task.max_turns is None:
        if type(task).environment is not Task.environment:
            raise TaskError(
                f"{task.name}: it has environments, so max_turns must say how often the policy may speak"
            )
        tell = _decoding(on_answer, decode, [p for _, p in asked])
        with timer("generate"):
            drawn = engine.generate(prompt_ids, group_size, sampling, seed, tell)
        return Conversations(completions=drawn, episodes=None)
    if task.max_turns < 1:
        raise TaskError(f"{task.name}: max_turns must be at least 1, got {task.max_turns}")
    rows = [_Row(number, e, p, sampling.max_response_tokens) for number, (e, p) in enumerate(asked)]
    going = rows
    with Environments(task, [row.example for row in rows]) as environments:
        for turn in range(task.max_turns):
            last = turn + 1 == task.max_turns
            if turn == 0:
                with timer("generate"):
                    drawn = engine.generate(prompt_ids, group_size, sampling, seed, hold=not last)
            else:
                longest = max((row.room for row in going), default=1)
                contexts = [(*row.prompt, *row.ids) for row in going]
                left = sampling.model_copy(update={"max_response_tokens": longest})
                places = [row.place for row in going]
                own = derive_seed(seed, Purpose.TURN, turn)
                with timer("generate"):
                    drawn = engine.generate(contexts, 1, left, own, hold=not last, continues=places)
            _take(going, drawn, decode)
            going = _answered(going, environments, encode_reply, on_answer, timer, last=last)
    return Conversations(completions=_completions(rows), episodes=tuple(row.episode() for row in rows))


class _Row:
    """An episode that grows."""

    def __init__(self, number: int, example: Example, prompt: TokenIds, limit: int) -> None:
        self.number = self.place = number
        self.example, self.prompt, self.limit = example, prompt, limit
        self.ids: list[int] = []
        self.sampled: list[bool] = []
        self.logprobs: list[float] = []
        self.transcript: list[Message] = []
        self.reward: Reward | None = None
        self.tool_calls = self.tool_errors = self.user_tokens = self.tool_tokens = 0
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

    def goes_on(self, reply: Reply, encode_reply: EncodeReply, *, last: bool) -> bool:
        """Take a reply to a turn that ended by itself; say whether the policy speaks again."""
        self.reward = self.reward if reply.reward is None else reply.reward
        self.tool_calls += reply.tool_calls
        self.tool_errors += reply.tool_errors
        if last or not reply.messages:
            return False
        ids = encode_reply(reply.messages, self.ids[-1])
        if not ids:
            raise TaskError(f"the reply of the environment of {self.example.uid} has no tokens")
        if len(ids) >= self.room:
            self.finished = False  # the episode would go on, and is cut here
            return False
        self.add(ids, [0.0] * len(ids), sampled=False)
        if any(message.role == "tool" for message in reply.messages):
            self.tool_tokens += len(ids)
        else:
            self.user_tokens += len(ids)
        self.transcript += reply.messages
        return True

    def episode(self) -> Episode:
        """All of it, at its end."""
        return Episode(
            transcript=tuple(self.transcript),
            reward=self.reward,
            tool_calls=self.tool_calls,
            tool_errors=self.tool_errors,
            turns=sum(message.role == "assistant" for message in self.transcript),
            user_tokens=self.user_tokens,
            tool_tokens=self.tool_tokens,
        )


def _decoding(on_answer: OnAnswer | None, decode: Decode, prompts: Sequence[TokenIds]) -> OnFinished | None:
    """What an engine tells while it samples the only turn."""
    if on_answer is None:
        return None
    return lambda row, ids: on_answer(row, decode(ids, prompts[row]))


def _answered(
    rows: Sequence[_Row],
    environments: Environments,
    encode_reply: EncodeReply,
    on_answer: OnAnswer | None,
    timer: Timer,
    *,
    last: bool,
) -> list[_Row]:
    """Ask the environments of the turns that ended by themselves; the rows that go on."""
    asked = [row for row in rows if row.finished]
    with timer("environment"):
        replies = environments.step([(row.number, tuple(row.transcript)) for row in asked])
    going = [
        row for row, reply in zip(asked, replies, strict=True) if row.goes_on(reply, encode_reply, last=last)
    ]
    numbers = {row.number for row in going}
    over = [row for row in rows if row.number not in numbers]
    with timer("environment"):
        environments.close([row.number for row in over])
    for row in over:
        if on_answer is not None and row.reward is None:
            on_answer(row.number, row.transcript[-1].content)
    return going


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
    for place, (row, length, ids, logprobs, finished) in enumerate(parts):
        row.place = place
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
