"""Base class of tasks: problems, the prompt made of each, and the grading of responses.

The same object serves training and evaluation, so the number that a run maximises is
the number that ``eval.py`` reports.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic

from pipo.errors import TaskError
from pipo.records.problems import Dropped, E, Message, Prompt, Reward, Split, Transcript

if TYPE_CHECKING:
    from pipo.tasks.environment import Environment
    from pipo.tasks.rows import Row


class Task(ABC, Generic[E]):
    """A set of problems with a grader. Subclass it and name the class in ``conf/task/*.yaml``."""

    name: str
    """Short name of the task, used in metric names and file names."""
    version: str
    """Raised whenever problems or grading change, so results can be compared."""
    template: str
    """Name and version of the prompt (``math/1``), for the same reason."""
    votes: bool = False
    """Whether responses to a problem can be put to the vote (maj@k): they have a final answer,
    ``same_answers`` compares two of them, and those with the full score all give the same one.
    """
    reward_names: tuple[str, ...] = ()
    """Names in ``Reward.rewards``, where a reward is put together of several."""
    max_turns: int | None = None
    """How often the policy may speak in an episode; None: one turn, no environment."""
    step_seconds: float = 600.0
    """By the clock, after which a step of an environment is given up; its episode scores 0, which is the
    machine's fault. Far behind what a step takes: limits that a response may run into belong to the
    environment, in processor time.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("score", "score_batch"):
            if hasattr(cls, name):
                raise TypeError(
                    f"{cls.__name__}.{name} would never be called: responses are graded by "
                    "grade(examples, responses), so override that"
                )

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
        return Prompt(messages=(*earlier, asked), text=f"{hint}\n\n{prompt.text}", tools=prompt.tools)

    @abstractmethod
    def grade(self, examples: Sequence[E], responses: Sequence[str]) -> list[Reward]:
        """Grade decoded responses, for training and evaluation alike; there is no other way to a verdict.

        Whatever a response contains may cost that response its score and no other; a task that looks at one
        at a time gets that from :func:`pipo.tasks.verdicts.one_by_one`.

        Args:
            examples: the problem of each response.
            responses: decoded text.

        Returns:
            One verdict per response, in order.
        """

    def begin_grading(self, examples: Sequence[E], responses: Sequence[str]) -> None:
        """Told of responses while others are still being sampled: ``grade`` will be asked about them.

        A task whose grader works in other processes may let it begin; here nothing happens. It changes no
        verdict, does not wait, and leaves every failure to ``grade``; ``close`` ends what was begun. It
        belongs to the ``grade`` beside it: a subclass with a ``grade``, ``grade_transcripts`` or
        ``grade_tokens`` of its own is not told unless it has its own ``begin_grading``, too.

        Args:
            examples: the problem of each response.
            responses: decoded text; of a conversation what the policy said last.
        """

    def begins_early(self) -> bool:
        """Whether ``begin_grading`` belongs to what grades, so that there is a point in calling it."""

        def depth(name: str) -> int:
            return next(i for i, each in enumerate(type(self).__mro__) if name in vars(each))

        return depth("begin_grading") <= min(map(depth, ("grade", "grade_transcripts", "grade_tokens")))

    def environment(self, example: E) -> Environment:
        """What answers the policy in one episode; a task with ``max_turns`` overrides it.

        It is asked in training and in evaluation, from several threads at a time, once for each response
        whose first turn ended by itself.

        Args:
            example: the problem.
        """
        raise TaskError(f"{self.name}: has max_turns, so it needs an environment that answers the policy")

    def grade_transcripts(self, examples: Sequence[E], transcripts: Sequence[Transcript]) -> list[Reward]:
        """Grade conversations, here by what the policy said last; asked when the task has ``max_turns``.

        Asked for the episodes to which the environment gave no reward, such as those that were cut. Override
        it where the verdict depends on more than the last turn. A conversation may end with a turn that was
        cut, or with one that was the last allowed.

        Args:
            examples: the problem of each conversation.
            transcripts: all that was said after its prompt, from the policy's first turn to its last.

        Returns:
            One verdict per conversation, in order.
        """
        return self.grade(examples, [transcript[-1].content for transcript in transcripts])

    def grade_tokens(
        self, examples: Sequence[E], responses: Sequence[str], tokens: Sequence[Sequence[int]]
    ) -> list[Reward]:
        """Grade responses of which the tokens are known as well, here by their text alone.

        Override it where the verdict depends on them. Where only texts are there, as in ``eval.py grade``,
        ``grade`` is asked.

        Args:
            examples: the problem of each response.
            responses: decoded text.
            tokens: token ids of each response, its stop token included.

        Returns:
            One verdict per response, in order.
        """
        return self.grade(examples, responses)

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether two final answers, as in ``Reward.answer``, mean the same; for each pair.

        Here their texts decide. Override where the grader accepts more than one form of an answer.
        """
        return [a.strip() == b.strip() for a, b in pairs]

    def close(self) -> None:
        """Release worker processes, if any."""
