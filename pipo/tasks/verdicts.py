"""Call ``Task.grade``, for training and evaluation alike, and check what it returns.

Also the loop for a task that looks at one response at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pipo.errors import ConfigError, RunFailed, RunStopped, TaskError, reason
from pipo.graders.worker_pool import WorkerStartError
from pipo.records.problems import E, Reward, Transcript
from pipo.tasks.base import Task

_LOG = logging.getLogger(__name__)

# What is no response's fault.
_NOT_THE_RESPONSE = (ConfigError, RunFailed, RunStopped, WorkerStartError)


def verdicts_of(
    task: Task[E],
    examples: Sequence[E],
    responses: Sequence[str],
    transcripts: Sequence[Transcript] | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
) -> tuple[Reward, ...]:
    """The verdict on each response. Everything that is graded, in training and evaluation alike, is here.

    Args:
        task: grades.
        examples: the problem of each response.
        responses: decoded text.
        transcripts: the same responses as conversations, for ``grade_transcripts``; None for one turn.
        tokens: token ids of each response, for ``grade_tokens``; None where only its text is known.

    Raises:
        TaskError: what the task returned is not one ``Reward`` per response, in a list or a tuple.
    """
    name = type(task).__name__
    if transcripts is not None:
        grade, found = f"{name}.grade_transcripts", task.grade_transcripts(examples, transcripts)
    elif tokens is not None and type(task).grade_tokens is not Task.grade_tokens:
        grade, found = f"{name}.grade_tokens", task.grade_tokens(examples, responses, tokens)
    else:
        grade, found = f"{name}.grade", task.grade(examples, responses)
    if not isinstance(found, list | tuple):
        raise TaskError(f"{grade} must return a list of Reward, got {type(found).__name__}")
    if len(found) != len(responses):
        raise TaskError(f"{grade} must return one Reward per response, got {len(found)} of {len(responses)}")
    for place, reward in enumerate(found):
        if not isinstance(reward, Reward):
            got = f"{type(reward).__name__} {reward!r:.40} for response {place}"
            raise TaskError(f"{grade} must return a list of Reward, got {got}")
    _warn_of_machine(task.name, found)
    return tuple(found)


def one_by_one(
    grade: Callable[[E, str], Reward], examples: Sequence[E], responses: Sequence[str]
) -> list[Reward]:
    """``Task.grade`` for a task that looks at one response at a time.

    A response on which ``grade`` raises costs itself alone: it scores 0, and ``Reward.error`` says why. When
    ``grade`` raises on every one of several responses the fault is its own, and the first error is raised.

    Args:
        grade: problem and response to verdict.
        examples: the problem of each response.
        responses: decoded text.
    """
    found: list[Reward] = []
    failures: list[Exception] = []
    for example, response in zip(examples, responses, strict=True):
        try:
            found.append(grade(example, response))
        except _NOT_THE_RESPONSE:
            raise
        except Exception as error:
            failures.append(error)
            found.append(Reward(score=0.0, error=_said(error)))
    if failures:
        if len(failures) == len(responses) > 1:
            raise failures[0]
        _LOG.warning(
            "%d of %d responses broke their grader and score 0 (the first: %s)",
            len(failures),
            len(responses),
            _said(failures[0]),
        )
        _LOG.info("grading failed here", exc_info=failures[0])  # for whoever has to find out why
    return found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {reason(error)}"


def _warn_of_machine(task: str, found: Sequence[Reward]) -> None:
    """Say how many verdicts of a batch are the machine's fault, and what was wrong with the first."""
    reasons = [verdict.error for verdict in found if verdict.infrastructure]
    if reasons:
        _LOG.warning(
            "%s: %d of %d responses could not be graded, which is the machine's fault and not theirs, and "
            "score 0 (the first: %s)",
            task,
            len(reasons),
            len(found),
            reasons[0],
        )
