"""``samples.jsonl``: one line per problem with all its responses, written batch by batch and read back.

The file is what makes an evaluation resumable: a problem that stands in it is not evaluated again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipo.evaluation.results import ProblemResult, Sample
from pipo.records.problems import from_json
from pipo.records.text import json_text

SAMPLES_FILE = "samples.jsonl"
_SELDOM = ("right", "rewards", "noted", "messages")


def append_samples(path: Path, part: str, problems: Sequence[ProblemResult]) -> None:
    """Add one batch; it is on the disk when this returns."""
    lines = "".join(json_text(_record(part, problem)) + "\n" for problem in problems)
    with path.open("ab") as file:
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def recover_samples(path: Path, sizes: Mapping[str, int], batch: int) -> dict[str, list[ProblemResult]]:
    """Read whole batches back and cut off what stands behind them: a torn line, or half a batch.

    Args:
        path: the file; it need not exist yet.
        sizes: part -> number of its problems, in the order in which the parts are evaluated.
        batch: problems per batch.

    Returns:
        Part -> its evaluated problems, for every part.

    Raises:
        ValueError: a line is damaged, or is not the problem that stands at its place.
    """
    found: dict[str, list[ProblemResult]] = {part: [] for part in sizes}
    if not path.exists():
        return found
    expected = ((part, index) for part, size in sizes.items() for index in range(size))
    # By bytes: the text may hold other characters that end a line.
    *lines, _torn = path.read_bytes().split(b"\n")
    position = end = 0
    whole: dict[str, int] = dict.fromkeys(sizes, 0)
    for number, line in enumerate(lines, start=1):
        part, problem = _parsed(line, f"{path}, line {number}")
        place = next(expected, None)
        if place != (part, problem.index):
            should = "no further problem" if place is None else f"problem {place[1]} of {place[0]}"
            raise ValueError(f"{path}, line {number}: {should} was expected, not {problem.index} of {part}")
        found[part].append(problem)
        position += len(line) + 1
        count = len(found[part])
        if count % batch == 0 or count == sizes[part]:
            end, whole[part] = position, count
    os.truncate(path, end)
    return {part: problems[: whole[part]] for part, problems in found.items()}


def _record(part: str, problem: ProblemResult) -> dict[str, Any]:
    """Keys in reading order, and text as text: the file is meant for people and for grep."""
    return {
        "part": part,
        "index": problem.index,
        "uid": problem.uid,
        "level": problem.level,
        "solved": f"{problem.solved}/{len(problem.samples)}",
        "majority": problem.majority,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "samples": [_sample(sample) for sample in problem.samples],
    }


def _sample(sample: Sample) -> dict[str, Any]:
    """What few tasks say is left out where it is not said."""
    return {
        name: value
        for name, value in dataclasses.asdict(sample).items()
        if value is not None or name not in _SELDOM
    }


def _read(sample: dict[str, Any]) -> Sample:
    said = sample.get("messages")
    return Sample(**{**sample, "messages": None if said is None else from_json(said)})


def _parsed(line: bytes, place: str) -> tuple[str, ProblemResult]:
    try:
        record = json.loads(line)
        samples = tuple(_read(sample) for sample in record["samples"])
        names = ("index", "uid", "level", "prompt", "answer", "majority")
        problem = ProblemResult(samples=samples, **{name: record[name] for name in names})
        return record["part"], problem
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place}: not an evaluated problem; the file was damaged") from error
