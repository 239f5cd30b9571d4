"""What a task is: problems, how they are put to the model, and how an answer is graded.

The same object serves training and evaluation, so the number that a run maximises is
the number that ``eval.py`` reports.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from pipo.errors import ConfigError
from pipo.files import has_half_pair, whole_text

if TYPE_CHECKING:
    from pipo.tasks.rows import Row

Split = Literal["train", "test"]


class TaskError(ConfigError):
    """A task cannot be built: a bad option or a bad data file. The message names it."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


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


class Task(ABC, Generic[E]):
    """A set of problems with a grader. Subclass it and name the class in ``conf/task/*.yaml``.

    Attributes:
        name: short name, used in metric names and file names.
        version: raised whenever problems or grading change, so results can be compared.
        template: name and version of the prompt (``math/1``), for the same reason.
        votes: whether responses to a problem can be put to the vote (maj@k): they have a final answer,
            ``same_answers`` compares two of them, and those with the full score all give the same one.
    """

    name: str
    version: str
    template: str
    votes: bool = False

    @abstractmethod
    def examples(self, split: Split) -> Sequence[E]:
        """All problems of a split, in a fixed order.

        Raises:
            TaskError: they cannot be read, or the task has no such split.
        """

    def dropped(self, split: Split) -> Sequence[Dropped]:
        """Rows of a split that gave no problem."""
        return ()

    def doubtful(self, split: Split) -> Sequence[Dropped]:
        """Problems of a split that are used although something about them is off; worth a warning."""
        return ()

    def to_grade(self, number: int, row: Row) -> E:
        """The problem of a row that brings its response along: all that grading takes, and no more.

        Args:
            number: of the row, from 0.
            row: its fields.

        Raises:
            UnusableRow: the row gives no problem.
            TaskError: problems of this task do not come as rows. Override it where they do.
        """
        raise TaskError(
            f"{self.name} cannot grade rows, because its problems do not come as such; give the "
            "samples.jsonl of an evaluation of it"
        )

    @abstractmethod
    def render(self, example: E) -> Prompt:
        """The problem as a prompt."""

    def render_with_hint(self, example: E, *, solution: str | None, feedback: str | None) -> Prompt:
        """The problem again, with privileged information for a self-teacher.

        Args:
            example: the problem.
            solution: a response that solved it; None if there is none.
            feedback: what the task said about the response under review; None if nothing.
        """
        prompt = self.render(example)
        parts = []
        if solution is not None:
            parts.append(f"A correct solution:\n{solution}")
        if feedback is not None:
            parts.append(f"Feedback on an earlier attempt:\n{feedback}")
        hint = "\n\n".join([*parts, "Solve the problem again."])
        *earlier, last = prompt.messages
        asked = Message(role=last.role, content=f"{last.content}\n\n{hint}")
        return Prompt(messages=(*earlier, asked), text=f"{hint}\n\n{prompt.text}")

    @abstractmethod
    def score(self, example: E, response: str) -> Reward:
        """Grade one decoded response. Never raises for anything the response contains."""

    def score_batch(self, examples: Sequence[E], responses: Sequence[str]) -> list[Reward]:
        """Grade many responses; ``examples[i]`` belongs to ``responses[i]``. Override to run in parallel."""
        return [self.score(e, r) for e, r in zip(examples, responses, strict=True)]

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether two final answers, as in ``Reward.answer``, mean the same; for each pair.

        Here their texts decide. Override where the grader accepts more than one form of an answer.
        """
        return [a.strip() == b.strip() for a, b in pairs]

    def close(self) -> None:
        """Release worker processes, if any."""
