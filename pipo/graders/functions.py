"""Reward functions of the user's own, called in worker processes with TRL's arguments; their weighted sum."""

from __future__ import annotations

import difflib
import itertools
import json
import logging
import os
import pickle
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipo.distributed.processes import own_cores
from pipo.errors import TaskError
from pipo.graders.worker_pool import Limits, Outcome, WorkerPool, WorkerStartError
from pipo.records.problems import Reward

_LOG = logging.getLogger(__name__)

FUNCTION_WORKER = Path(__file__).with_name("function_worker.py")
# What a function may take besides the columns of the rows.
OWN = ("prompts", "completions", "completion_ids", "log_extra", "log_metric")
_STATE = "trainer_state"
_NOT_COLUMNS = {*OWN, _STATE}
_APPLIES_NOT = "no reward function applies to it"

Messages = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One response to be rewarded."""

    problem: str
    """Name of its problem; responses to one are never parted."""
    place: str
    """Where the row of the problem stands, for messages."""
    prompt: str | Messages
    """The prompt as the row has it."""
    response: str
    """The response."""
    tokens: Sequence[int] | None
    """Its token ids; None where only its text is known."""
    columns: Mapping[str, Any]
    """Further columns of the row."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one function says to one response."""

    value: float | None = None
    """The reward; None where it does not apply, or failed."""
    error: str | None = None
    """Why it failed; None when it did not."""
    infrastructure: bool = False
    """Whether the machine was at fault."""
    noted: Mapping[str, Any] | None = None
    """What it gave to ``log_extra`` for this response."""


class RewardFunctions:
    """Calls functions ``f(prompts, completions, completion_ids, <column>=..., ...) -> list of numbers``.

    A function gets of these what it names, everything if it takes ``**kwargs``; all by name, a list with one
    entry for each response. A reward of None means that it does not apply.

    Args:
        functions: ``file.py:name`` or ``package.module:name``; one, or a list.
        weights: of each; None for 1.
        correct: a response is right when its reward is at least this.
        correct_by: name of the function whose reward says so; None for the weighted sum.
        batch: responses of one call, at most; all those to one problem are in the same call, however many.
        workers: processes at most, None for this process's share of the node's cores.
        cpu_s: seconds of processor time for one call.
        wall_s: seconds by the clock for one call, above ``cpu_s``; after these it is tried once more.
        batch_s: seconds by the clock for all calls of a batch of responses.

    Raises:
        TaskError: a function cannot be loaded, or an option is out of range.
    """

    def __init__(
        self,
        *,
        functions: str | list[str],
        weights: list[float] | None,
        correct: float,
        correct_by: str | None,
        batch: int,
        workers: int | None,
        cpu_s: float,
        wall_s: float,
        batch_s: float,
    ) -> None:
        self._specs = [functions] if isinstance(functions, str) else list(functions)
        if not self._specs or not all(":" in spec for spec in self._specs):
            raise TaskError(
                f"reward={functions}: name a function as file.py:function or package.module:function"
            )
        self._weights = [1.0] * len(self._specs) if weights is None else list(weights)
        if len(self._weights) != len(self._specs):
            count = f"{len(self._weights)} weights for {len(self._specs)} functions"
            raise TaskError(f"reward_weights={self._weights}: {count}")
        for name, value in (("batch", batch), ("workers", 1 if workers is None else workers)):
            if value < 1:
                raise TaskError(f"{name} must be at least 1, got {value}")
        if not 0 < batch_s < float("inf"):
            raise TaskError(f"batch_s must be a positive number of seconds, got {batch_s}")
        self._batch, self._batch_s, self._correct, self._correct_by = batch, batch_s, correct, correct_by
        path = [entry for entry in (*sys.path, os.getcwd()) if entry]
        self._pool = WorkerPool(
            program=FUNCTION_WORKER,
            workers=own_cores() if workers is None else workers,
            limits=Limits(cpu_s=cpu_s, wall_s=wall_s),
            arguments=[json.dumps({"functions": self._specs, "path": path})],
        )
        self._described = self._describe()
        self.names = tuple(each["name"] for each in self._described)
        if len(set(self.names)) < len(self.names):
            raise TaskError(f"reward={self._specs}: two functions of one name cannot be told apart")
        if correct_by is not None and correct_by not in self.names:
            raise TaskError(f"correct_by={correct_by}: the functions are {', '.join(self.names)}")
        self._outside: set[str] = set()
        self._told_none = False

    @property
    def version(self) -> str:
        """Differs as soon as the file of one of the functions does."""
        return "-".join(each["source"] for each in self._described)

    def check_columns(self, columns: Iterable[str], source: str) -> None:
        """Whether the rows have what the functions ask for.

        Args:
            columns: of the rows, without the prompt.
            source: name of the rows, for messages.

        Raises:
            TaskError: naming function and column.
        """
        known = set(columns)
        if taken := sorted(known & _NOT_COLUMNS):
            raise TaskError(f"{source}: a column called {taken[0]!r} would hide the argument of that name")
        for spec, each in zip(self._specs, self._described, strict=True):
            if _STATE in each["needs"]:
                raise TaskError(
                    f"reward={spec}: takes {_STATE}, which is not given: a response has the same reward at "
                    "any time, so that means can be compared and a resumed run repeats itself"
                )
            missing = [name for name in each["needs"] if name not in known and name not in OWN]
            if missing:
                has = ", ".join(sorted(known)) or "none besides the prompt"
                meant = difflib.get_close_matches(missing[0], [*OWN, *known], n=1)
                hint = f"; did you mean {meant[0]}?" if meant else ""
                raise TaskError(
                    f"reward={spec}: takes {missing[0]!r}, which no row of {source} has; columns: {has}{hint}"
                )

    def missing(self, columns: Mapping[str, Any]) -> str | None:
        """A column that a function needs and a row lacks; None when there is none."""
        needs = (name for each in self._described for name in each["needs"] if name not in _NOT_COLUMNS)
        return next((name for name in needs if name not in columns), None)

    def grade(self, asked: Sequence[Asked]) -> list[Reward]:
        """One reward per response, in order.

        Raises:
            TaskError: a function returns no list of rewards, or raises, dies or takes too much processor
                time on the responses to several problems and on every one of them.
        """
        parts = self._parts(asked)
        for name, own in zip(self.names, parts, strict=True):
            self._check_failures(name, asked, own)
            self._tell_range(name, asked, own)
        rewards = [self._total([own[row] for own in parts]) for row in range(len(asked))]
        self._tell_none(asked, rewards)
        return rewards

    def close(self) -> None:
        """End the worker processes. They start again when they are needed."""
        self._pool.close()

    def _describe(self) -> list[dict[str, Any]]:
        try:
            (outcome,) = self._pool.run([pickle.dumps(None)])
        except WorkerStartError as error:
            raise TaskError(f"reward={', '.join(self._specs)}: {error}") from error
        if outcome.reply is None:
            raise TaskError(f"reward={', '.join(self._specs)}: cannot be loaded ({outcome.error})")
        found = json.loads(outcome.reply)
        if found["problem"] is not None:
            raise TaskError(f"reward={found['problem']}")
        return found["functions"]

    def _parts(self, asked: Sequence[Asked]) -> list[list[_Part]]:
        """What each function says to each response. Calls that are lost are made again, one by one."""
        until = time.monotonic() + self._batch_s
        calls = [(f, rows) for f in range(len(self.names)) for rows in _calls(asked, self._batch)]
        parts = [[_Part()] * len(asked) for _ in self.names]
        again: list[tuple[int, range]] = []
        for (function, rows), outcome in zip(calls, self._run(asked, calls, until), strict=True):
            if outcome.reply is None and len(rows) > 1:
                again += [(function, range(row, row + 1)) for row in rows]
            else:
                parts[function][rows.start : rows.stop] = self._read(function, asked, rows, outcome)
        for (function, rows), outcome in zip(again, self._run(asked, again, until), strict=True):
            parts[function][rows.start : rows.stop] = self._read(function, asked, rows, outcome)
        return parts

    def _run(self, asked: Sequence[Asked], calls: Sequence[tuple[int, range]], until: float) -> list[Outcome]:
        arguments = [self._arguments(f, asked[rows.start : rows.stop]) for f, rows in calls]
        requests = [
            pickle.dumps({"function": f, "arguments": each})
            for (f, _), each in zip(calls, arguments, strict=True)
        ]
        return self._pool.run(requests, until=until)

    def _arguments(self, function: int, asked: Sequence[Asked]) -> dict[str, list[Any]]:
        columns = dict.fromkeys(name for each in asked for name in each.columns)
        arguments: dict[str, list[Any]] = {
            name: [each.columns.get(name) for each in asked] for name in columns
        }
        arguments["prompts"] = [each.prompt for each in asked]
        arguments["completions"] = [
            each.response
            if isinstance(each.prompt, str)
            else [{"role": "assistant", "content": each.response}]
            for each in asked
        ]
        tokens = [list(each.tokens) for each in asked if each.tokens is not None]
        if len(tokens) == len(asked):
            arguments["completion_ids"] = tokens
        elif "completion_ids" in self._described[function]["needs"]:
            raise TaskError(
                f"reward={self._specs[function]}: takes completion_ids, and of these responses there is "
                "nothing but the text"
            )
        return arguments

    def _read(self, function: int, asked: Sequence[Asked], rows: range, outcome: Outcome) -> list[_Part]:
        """The reply to one call."""
        name = self.names[function]
        if outcome.reply is None:
            lost = [f"{asked[row].place}: {name}: {outcome.error}" for row in rows]
            return [_Part(error=error, infrastructure=outcome.infrastructure) for error in lost]
        reply = json.loads(outcome.reply)
        if reply["refused"] is not None:
            raise TaskError(f"reward={self._specs[function]}: {reply['refused']}")
        if reply["source"] != self._described[function]["source"]:
            raise TaskError(
                f"reward={self._specs[function]}: its file has changed since the run began; put it back and "
                "resume, or start another run"
            )
        if reply["printed"].strip():
            _LOG.info("%s printed: %s", name, reply["printed"].strip())
        return [
            _Part(
                value=value,
                error=None if error is None else f"{asked[row].place}: {name}: {error}",
                noted={column: values[i] for column, values in reply["noted"].items()},
            )
            for i, (row, value, error) in enumerate(zip(rows, reply["rewards"], reply["errors"], strict=True))
        ]

    def _check_failures(self, name: str, asked: Sequence[Asked], parts: Sequence[_Part]) -> None:
        failed = [part.error for part in parts if part.error is not None and not part.infrastructure]
        if not failed:
            return
        if len(failed) == len(parts) and len({each.problem for each in asked}) > 1:
            raise TaskError(f"reward: {name} fails on every response; {failed[0]}")
        _LOG.warning(
            "%s: failed on %d of %d responses, which score 0 (the first: %s)",
            name,
            len(failed),
            len(parts),
            failed[0],
        )

    def _tell_range(self, name: str, asked: Sequence[Asked], parts: Sequence[_Part]) -> None:
        """Say once for each function that its rewards are no shares."""
        if name in self._outside:
            return
        for each, part in zip(asked, parts, strict=True):
            if part.value is not None and not 0 <= part.value <= 1:
                self._outside.add(name)
                by = f"{self._correct_by} is" if self._correct_by is not None else "the reward is"
                _LOG.warning(
                    "%s: a reward of %g (%s) lies outside [0, 1]; rewards are used as they are, and a "
                    "response counts as right when %s at least %g (task.correct)",
                    name,
                    part.value,
                    each.place,
                    by,
                    self._correct,
                )
                return

    def _tell_none(self, asked: Sequence[Asked], rewards: Sequence[Reward]) -> None:
        """Say once that to some responses no function applies: it is no failure of any one of them."""
        places = [
            each.place for each, reward in zip(asked, rewards, strict=True) if reward.error == _APPLIES_NOT
        ]
        if not places or self._told_none:
            return
        self._told_none = True
        _LOG.warning(
            "%s: None or NaN for %d of %d responses, which score 0 and count in grader_errors (the first: "
            "%s); later ones are counted only",
            ", ".join(self.names),
            len(places),
            len(asked),
            places[0],
        )

    def _total(self, parts: Sequence[_Part]) -> Reward:
        """The weighted sum of what applies; nothing, where a function failed or none applies."""
        rewards = {name: part.value for name, part in zip(self.names, parts, strict=True)}
        noted = {column: value for part in parts for column, value in (part.noted or {}).items()}
        error = next((part.error for part in parts if part.error is not None), None)
        known = [
            weight * part.value
            for weight, part in zip(self._weights, parts, strict=True)
            if part.value is not None
        ]
        if error is None and not known:
            error = _APPLIES_NOT
        if error is not None:
            machine = any(part.infrastructure for part in parts)
            return Reward(
                score=0.0, error=error, infrastructure=machine, right=False, rewards=rewards, noted=noted
            )
        score = sum(known)
        judged = score if self._correct_by is None else rewards[self._correct_by]
        return Reward(
            score=score,
            right=judged is not None and judged >= self._correct,
            rewards=rewards,
            noted=noted,
        )


def _calls(asked: Sequence[Asked], most: int) -> Iterator[range]:
    """Ranges of responses that are rewarded in one call: whole groups, at most so many responses together."""
    first = row = 0
    for _, group in itertools.groupby(asked, key=lambda each: each.problem):
        start, row = row, row + len(list(group))
        if row - first > most and start > first:
            yield range(first, start)
            first = start
    if row > first:
        yield range(first, row)
