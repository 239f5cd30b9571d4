"""A problem, how it is put to the model, and the verdict on a response: what every stage hands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal, TypeVar

from pipo.records.text import has_half_pair, whole_text

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    """Speaker of the turn; ``tool``: what a call returned."""
    content: str
    """Text of the turn."""


Transcript = tuple[Message, ...]
"""What was said after a prompt: the policy as ``assistant``, its environment as ``user`` and ``tool``."""


def turn_by_turn(transcript: Transcript) -> str:
    """A conversation as one text for people to read: who speaks stands before each turn."""
    return "\n\n".join(f"[{message.role}]\n{message.content.strip()}" for message in transcript)


def as_json(transcript: Transcript) -> list[dict[str, str]]:
    """A conversation as a file keeps it."""
    return [{"role": message.role, "content": message.content} for message in transcript]


def from_json(messages: Sequence[Mapping[str, Any]]) -> Transcript:
    """A conversation from what a file keeps."""
    return tuple(Message(role=message["role"], content=message["content"]) for message in messages)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A problem as the model sees it, in both forms; the tokenizer decides which is used."""

    messages: tuple[Message, ...]
    """The conversation, for a tokenizer with a chat template."""
    text: str
    """The plain form, for a tokenizer without one (base models)."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the policy may call, for a chat template to show: each ``{"type": "function",
    "function": {"name": ..., "description": ..., "parameters": <JSON schema>}}``. The plain form has them in
    its text.
    """


@dataclass(frozen=True, kw_only=True)
class Example:
    """One problem with its reference answer. Tasks whose grader needs more add fields in a subclass."""

    uid: str
    """Stable name, unique within the task (``gsm8k/train/17``)."""
    question: str
    """The problem, without instructions."""
    answer: str
    """The reference that the grader compares with."""
    level: str = ""
    """Difficulty or subject, for reports; empty when the data set has none."""


E = TypeVar("E", bound=Example)


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A row that gave no problem, or a problem about which something is off."""

    place: str
    """Where the row stands (``data/train.jsonl, line 3``), or the problem's ``uid``."""
    reason: str
    """Why the row or problem cannot be used, or what is off about it."""


@dataclass(frozen=True, kw_only=True)
class Reward:
    """The verdict on one response."""

    score: float
    """Verifier reward in [0, 1]; any number where ``right`` is given."""
    answer: str | None = None
    """Final answer as the grader read it; None when it found none."""
    error: str | None = None
    """Why grading failed (time-out, crash); None when it did not. Counted, never hidden."""
    feedback: str | None = None
    """Feedback of the environment on this response, for a model to read; None for none."""
    infrastructure: bool = False
    """Whether the machine was at fault and not the response: a limit of wall-clock time overrun once more
    after a second try, a worker that something else has killed. Needs ``error``, scores 0, and is counted
    apart: the response may be right.
    """
    right: bool | None = None
    """Whether the response counts as right; None: when it has the full score of 1."""
    rewards: Mapping[str, float | None] | None = None
    """Name -> what a function of several gave, None where it does not apply; None for a single verdict."""
    noted: Mapping[str, Any] | None = None
    """Name -> what the grader wants to be kept beside the response, as JSON has it; None for nothing."""

    @property
    def solved(self) -> bool:
        """Whether the response counts as right, for accuracy and pass@k."""
        return self.score >= 1.0 if self.right is None else self.right

    def __post_init__(self) -> None:
        if self.right is None and not 0.0 <= self.score <= 1.0:
            raise ValueError(f"Reward.score must lie in [0, 1], got {self.score}")
        if not isfinite(self.score):
            raise ValueError(f"Reward.score must be finite, got {self.score}")
        # What a program prints and what a response calls may hold half of a surrogate pair, which could
        # neither be written to a file nor tokenised for a teacher.
        for name in ("answer", "error", "feedback"):
            text = getattr(self, name)
            if text is not None and has_half_pair(text):
                object.__setattr__(self, name, whole_text(text))
        if self.infrastructure and (self.error is None or self.score != 0.0):
            raise ValueError("Reward.infrastructure needs an error that says what happened, and a score of 0")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an environment says to a turn of the policy."""

    messages: tuple[Message, ...] = ()
    """What the policy reads before it speaks again, as ``user`` or ``tool``; none ends the episode."""
    reward: Reward | None = None
    """The verdict on the episode; the last one given counts. None: nothing new."""
    tool_calls: int = 0
    """Calls that the turn made."""
    tool_errors: int = 0
    """Those that failed: unreadable, unknown, refused, raised, over a limit. The policy reads what failed."""

    def __post_init__(self) -> None:
        if not 0 <= self.tool_errors <= self.tool_calls:
            raise ValueError(
                f"Reply: {self.tool_errors} of {self.tool_calls} calls failed; a call that cannot be read "
                "is a call, too"
            )
        if not isinstance(self.messages, tuple) or not all(
            isinstance(each, Message) for each in self.messages
        ):
            raise TypeError(f"Reply.messages must be a tuple of Message, got {self.messages!r:.80}")
        if self.reward is not None and not isinstance(self.reward, Reward):
            raise TypeError(f"Reply.reward must be a Reward or None, got {self.reward!r:.80}")
        for message in self.messages:
            if message.role not in ("user", "tool"):
                raise ValueError(f"Reply.messages: roles are user and tool, got {message.role}")
        # What a program prints may hold half of a surrogate pair, which no tokenizer takes.
        if any(has_half_pair(message.content) for message in self.messages):
            whole = (replace(message, content=whole_text(message.content)) for message in self.messages)
            object.__setattr__(self, "messages", tuple(whole))
