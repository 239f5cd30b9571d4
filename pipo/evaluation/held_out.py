"""Held-out records of a run, before and after training: right responses to every problem, and examples.

``held_out/before.json`` and ``held_out/after.json`` hold the number of right responses to every problem,
which makes the two comparable problem by problem, and one response to each of the first problems.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipo.evaluation.results import ProblemResult, Summary
from pipo.records.problems import Transcript, from_json
from pipo.runs.files import replace_text
from pipo.runs.run_folder import HELD_OUT_FOLDER

BEFORE_FILE, AFTER_FILE = f"{HELD_OUT_FOLDER}/before.json", f"{HELD_OUT_FOLDER}/after.json"


@dataclass(frozen=True, kw_only=True)
class HeldOutResponse:
    """One response to a held-out problem, graded."""

    index: int
    """Position in the evaluated list."""
    uid: str
    """Name of the problem."""
    level: str
    """Level of the problem, empty when the data set has none."""
    prompt: str
    """The prompt as the model read it."""
    reference: str
    """The reference answer."""
    response: str
    """The first response that is as most are: right where more than half of them are, else wrong."""
    answer: str | None
    """What the grader read in it; None when it found nothing."""
    score: float
    """Score of the response, in [0, 1]."""
    messages: Transcript | None = None
    """The response turn by turn; None for a task without environments."""


@dataclass(frozen=True, kw_only=True)
class HeldOutRecord:
    """A full evaluation, problem by problem."""

    iterations: int
    """Iterations that the model had been trained for."""
    summary: Summary
    """Summary of the evaluation, as in ``summary.json``."""
    samples: int
    """Responses to each problem."""
    solved: tuple[int, ...]
    """Number of right responses to every problem."""
    responses: tuple[HeldOutResponse, ...]
    """One response to each of the first problems."""


def mostly_right(solved: int, samples: int) -> bool:
    """Whether a problem counts as right as a whole: more than half of its responses are."""
    return 2 * solved > samples


def typical_response(problem: ProblemResult) -> HeldOutResponse:
    """One response that stands for all of a problem's."""
    right = mostly_right(problem.solved, len(problem.samples))
    sample = next(sample for sample in problem.samples if sample.solved == right)
    return HeldOutResponse(
        index=problem.index,
        uid=problem.uid,
        level=problem.level,
        prompt=problem.prompt,
        reference=problem.answer,
        response=sample.response,
        answer=sample.answer,
        score=sample.score,
        messages=sample.messages,
    )


def held_out_record(
    parts: Sequence[tuple[dict[int, int], Sequence[HeldOutResponse]]],
    summary: Summary,
    samples: int,
    iterations: int,
) -> HeldOutRecord:
    """Put together what the processes evaluated.

    Args:
        parts: of each process: index of a problem -> number of its right responses, and what is kept.
        summary: of all.
        samples: responses to each problem.
        iterations: of training so far.
    """
    solved = {index: count for counts, _ in parts for index, count in counts.items()}
    responses = sorted((response for _, each in parts for response in each), key=lambda each: each.index)
    return HeldOutRecord(
        iterations=iterations,
        summary=summary,
        samples=samples,
        solved=tuple(solved[index] for index in sorted(solved)),
        responses=tuple(responses),
    )


def write_record(path: Path, record: HeldOutRecord) -> None:
    """Write one of the two files as a whole."""
    path.parent.mkdir(exist_ok=True)
    content = dataclasses.asdict(record)
    for response in content["responses"]:
        if response["messages"] is None:
            del response["messages"]
    replace_text(path, json.dumps(content, indent=1) + "\n")


def read_record(path: Path) -> HeldOutRecord:
    """Read it back.

    Raises:
        ValueError: naming the file, when it is not what :func:`write_record` writes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["responses"] = tuple(_response(each) for each in content["responses"])
        content["solved"] = tuple(content["solved"])
        return HeldOutRecord(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a record of held-out problems ({error})") from error


def _response(content: dict[str, Any]) -> HeldOutResponse:
    said = content.get("messages")
    return HeldOutResponse(**{**content, "messages": None if said is None else from_json(said)})
