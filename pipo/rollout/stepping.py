"""Step the environments of a batch of episodes, several at a time, and close each when its episode is over.

Threads of its own do it, because environments wait for processes and services, and because a thread that
never comes back can be left behind: the executors of Python's library wait for it when the program ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from types import TracebackType
from typing import Any

from pipo.distributed.processes import own_cores
from pipo.errors import TaskError, reason
from pipo.records.problems import Example, Reply, Reward, Transcript
from pipo.tasks.base import Task
from pipo.tasks.environment import Environment
from pipo.tasks.verdicts import NOT_THE_RESPONSE, all_failed, failed, weigh

_LOG = logging.getLogger(__name__)


class Environments:
    """The environments of N episodes. A context manager: afterwards all are closed, whatever happened.

    Args:
        task: makes them, each when it is asked for the first time.
        examples: the problem of each episode.
    """

    def __init__(self, task: Task, examples: Sequence[Example]) -> None:
        self._name, self._seconds = type(task).__name__, task.step_seconds
        self._episodes = [_Episode(task, example) for example in examples]
        self._threads = _Threads(min(own_cores(), len(examples)))
        self._asked: set[int] = set()
        self._failures: dict[int, Exception] = {}

    def __enter__(self) -> Environments:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all; end the run if the environment of every episode raised.

        Raises:
            TaskError: naming the first error; its trace is in the log file.
        """
        self.close(range(len(self._episodes)))
        self._threads.close()
        if error is not None:
            return
        numbers = sorted(self._failures)
        failures = [self._failures[number] for number in numbers]
        if all_failed(failures, len(self._asked)):
            first = failures[0]
            _LOG.info("an environment failed here", exc_info=first)
            raise TaskError(
                f"{self._name}: the environments of all {len(failures)} episodes raised; the first, of "
                f"{self._episodes[numbers[0]].example.uid}: {type(first).__name__}: {reason(first)}"
            ) from first
        weigh(failures, len(self._asked), "episodes broke their environment", "an environment")

    def step(self, asked: Sequence[tuple[int, Transcript]]) -> list[Reply]:
        """What each environment says to the newest turn.

        One that raises, or takes too long, replies with a score of 0 and no message.

        Args:
            asked: number of the episode, and what was said in it so far.

        Raises:
            TaskError: an environment returned something else than a ``Reply``.
        """
        calls = [(lambda e=self._episodes[n], said=said: e.step(said)) for n, said in asked]
        found = self._threads.run(calls, self._seconds)
        self._asked.update(number for number, _ in asked)
        return [self._reply(number, outcome) for (number, _), outcome in zip(asked, found, strict=True)]

    def close(self, numbers: Sequence[int]) -> None:
        """Close the environments of episodes that are over."""
        ending = [episode for n in numbers if not (episode := self._episodes[n]).over]
        for episode in ending:
            episode.over = True
        found = self._threads.run([episode.close for episode in ending], self._seconds)
        errors = [outcome for outcome in found if isinstance(outcome, BaseException)]
        if errors:
            said = reason(errors[0])
            _LOG.warning("%s: %d environments could not be closed: %s", self._name, len(errors), said)

    def _reply(self, number: int, outcome: object) -> Reply:
        if isinstance(outcome, Reply):
            return outcome
        if isinstance(outcome, _TookTooLong):
            said = f"its environment took more than the task's step_seconds={self._seconds:g} for a step"
            return Reply(reward=Reward(score=0.0, error=said, infrastructure=True))
        if isinstance(outcome, NOT_THE_RESPONSE) or (
            isinstance(outcome, BaseException) and not isinstance(outcome, Exception)
        ):
            raise outcome
        if isinstance(outcome, Exception):
            self._failures[number] = outcome
            return Reply(reward=failed(outcome))
        raise TaskError(
            f"{self._name}: the step of an environment must return a Reply, got {type(outcome).__name__} for "
            f"{self._episodes[number].example.uid}"
        )


class _Episode:
    """An environment from its first step to its end."""

    def __init__(self, task: Task, example: Example) -> None:
        self.task, self.example = task, example
        self.over = False
        self._environment: Environment | None = None
        self._lock = Lock()

    def step(self, transcript: Transcript) -> Reply:
        try:
            with self._lock:
                if self.over:
                    return Reply()
                if self._environment is None:
                    self._environment = self.task.environment(self.example)
                return self._environment.step(transcript)
        finally:
            if self.over:  # it was given up meanwhile
                self.close()

    def close(self) -> None:
        """Close it; a step that is still going on does that when it comes back."""
        if self._lock.acquire(blocking=False):
            try:
                environment, self._environment = self._environment, None
                if environment is not None:
                    environment.close()
            finally:
                self._lock.release()


class _TookTooLong(Exception):
    """A call was given up."""


class _Call:
    """A call, from the queue to its outcome."""

    def __init__(self, place: int, function: Callable[[], Any]) -> None:
        self.place, self.function = place, function
        self.begun: float | None = None
        self.outcome: object = None
        self.given_up = False


class _Threads:
    """Threads that call functions; they start when there is something to call."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._done: SimpleQueue[_Call] = SimpleQueue()

    def run(self, functions: Sequence[Callable[[], Any]], seconds: float) -> list[object]:
        """What each function returned or raised, in order; a ``_TookTooLong`` for one that did not return.

        Args:
            functions: to call.
            seconds: by the clock; what has run for so long is given up once nothing has returned for as long.
        """
        calls = [_Call(place, function) for place, function in enumerate(functions)]
        for call in calls:
            self._calls.put(call)
        while self._count < min(self._most, len(calls)):
            self._start()
        left = set(calls)
        while left:
            try:
                left.discard(self._done.get(timeout=seconds))
            except Empty:
                for call in [c for c in left if c.begun is not None and monotonic() - c.begun >= seconds]:
                    call.given_up, call.outcome = True, _TookTooLong()
                    left.discard(call)
                    self._start()  # in place of the thread that is stuck
        return [call.outcome for call in calls]

    def close(self) -> None:
        """Let the threads end."""
        for _ in range(self._count):
            self._calls.put(None)

    def _start(self) -> None:
        self._count += 1
        Thread(target=self._work, name="environment", daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.begun = monotonic()
            try:
                outcome: object = call.function()
            except BaseException as error:
                outcome = error
            if call.given_up:
                return
            call.outcome = outcome
            self._done.put(call)
