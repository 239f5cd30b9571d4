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

NOT_THE_RESPONSE = (ConfigError, RunFailed, RunStopped, WorkerStartError)
"""What is no response's fault."""


def verdicts_of(
    task: Task[E],
    examples: Sequence[E],
    responses: Sequence[str],
    tokens: Sequence[Sequence[int]] | None = None,
) -> tuple[Reward, ...]:
    """The verdict on each response. Everything that is graded, in training and evaluation alike, is here.

    Args:
        task: grades.
        examples: the problem of each response.
        responses: decoded text.
        tokens: token ids of each response, for ``grade_tokens``; None where only its text is known.

    Raises:
        TaskError: what the task returned is not one ``Reward`` per response, in a list or a tuple.
    """
    name = type(task).__name__
    if tokens is not None and type(task).grade_tokens is not Task.grade_tokens:
        grade, found = f"{name}.grade_tokens", task.grade_tokens(examples, responses, tokens)
    else:
        grade, found = f"{name}.grade", task.grade(examples, responses)
    verdicts = _checked(grade, found, len(responses))
    _warn_of_machine(task.name, verdicts)
    return verdicts


def verdicts_of_episodes(
    task: Task[E],
    examples: Sequence[E],
    transcripts: Sequence[Transcript],
    given: Sequence[Reward | None],
) -> tuple[Reward, ...]:
    """The verdict on each episode: what its environment gave, else what the task says.

    Args:
        task: grades.
        examples: the problem of each episode.
        transcripts: what was said in each.
        given: the environment's last reward; None where it gave none.

    Raises:
        TaskError: what the task returned is not one ``Reward`` per episode, in a list or a tuple.
    """
    left = [place for place, reward in enumerate(given) if reward is None]
    if left:
        found = task.grade_transcripts([examples[i] for i in left], [transcripts[i] for i in left])
        graded = _checked(f"{type(task).__name__}.grade_transcripts", found, len(left))
    else:
        graded = ()
    rest = iter(graded)
    verdicts = tuple(next(rest) if reward is None else reward for reward in given)
    _warn_of_machine(task.name, verdicts)
    return verdicts


def _checked(grade: str, found: object, count: int) -> tuple[Reward, ...]:
    """What ``grade`` returned, if it is one ``Reward`` per response."""
    if not isinstance(found, list | tuple):
        raise TaskError(f"{grade} must return a list of Reward, got {type(found).__name__}")
    if len(found) != count:
        raise TaskError(f"{grade} must return one Reward per response, got {len(found)} of {count}")
    for place, reward in enumerate(found):
        if not isinstance(reward, Reward):
            got = f"{type(reward).__name__} {reward!r:.40} for response {place}"
            raise TaskError(f"{grade} must return a list of Reward, got {got}")
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
        except NOT_THE_RESPONSE:
            raise
        except Exception as error:
            failures.append(error)
            found.append(failed(error))
    weigh(failures, len(responses), "responses broke their grader", "grading")
    return found


def failed(error: Exception) -> Reward:
    """The verdict on what could not be graded."""
    return Reward(score=0.0, error=_said(error))


def all_failed(failures: Sequence[Exception], count: int) -> bool:
    """Whether all of several failed, which is no single row's fault."""
    return len(failures) == count > 1


def weigh(failures: Sequence[Exception], count: int, broke: str, doing: str) -> None:
    """Say how much of a batch failed; raise the first error when all of several did, which is no row's fault.

    Args:
        failures: errors, in order.
        count: how many could have failed.
        broke: what happened to them, for the message.
        doing: what failed, for the log.
    """
    if not failures:
        return
    if all_failed(failures, count):
        raise failures[0]
    first = _said(failures[0])
    _LOG.warning("%d of %d %s and score 0 (the first: %s)", len(failures), count, broke, first)
    _LOG.info("%s failed here", doing, exc_info=failures[0])  # for whoever has to find out why


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
