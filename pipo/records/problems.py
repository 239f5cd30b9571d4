"""A problem, how it is put to the model, and the verdict on a response: what every stage hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from pipo.records.text import has_half_pair, whole_text

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Transcript = tuple[Message, ...]
"""What was said after a prompt: the policy as ``assistant``, the task in reply as ``user``, and so on."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A problem as the model sees it, in both forms; the tokenizer decides which is used.

    Attributes:
        messages: the conversation, for a tokenizer with a chat template.
        text: the plain form, for a tokenizer without one (base models).
    """

    messages: tuple[Message, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """One problem with its reference answer. Tasks whose grader needs more add fields in a subclass.

    Attributes:
        uid: stable name, unique within the task (``gsm8k/train/17``).
        question: the problem, without instructions.
        answer: the reference that the grader compares with.
        level: difficulty or subject, for reports; empty when the data set has none.
    """

    uid: str
    question: str
    answer: str
    level: str = ""


E = TypeVar("E", bound=Example)


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A row that gave no problem, or a problem about which something is off.

    Attributes:
        place: where it stands (``data/train.jsonl, line 3``), or the problem's ``uid``.
        reason: why it cannot be used, or what is off.
    """

    place: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reward:
    """The verdict on one response.

    Attributes:
        score: verifier reward in [0, 1].
        answer: what the grader read as the final answer; None when it found none.
        error: why grading failed (time-out, crash); None when it did not. Counted, never hidden.
        infrastructure: whether the machine was at fault and not the response: a limit of wall-clock time
            overrun once more after a second try, a worker that something else has killed. Needs ``error``,
            scores 0, and is counted apart: the response may be right.
        feedback: what the environment would tell the model about this response; None if nothing.
    """

    score: float
    answer: str | None = None
    error: str | None = None
    feedback: str | None = None
    infrastructure: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"Reward.score must lie in [0, 1], got {self.score}")
        # What a program prints and what a response calls may hold half of a surrogate pair, which could
        # neither be written to a file nor tokenised for a teacher.
        for name in ("answer", "error", "feedback"):
            text = getattr(self, name)
            if text is not None and has_half_pair(text):
                object.__setattr__(self, name, whole_text(text))
        if self.infrastructure and (self.error is None or self.score != 0.0):
            raise ValueError("Reward.infrastructure needs an error that says what happened, and a score of 0")
