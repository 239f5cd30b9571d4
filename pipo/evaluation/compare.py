"""Two evaluations of the same problems, compared problem by problem."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipo.errors import ConfigError
from pipo.evaluation.benchmark import Column, part_weights
from pipo.evaluation.statistics import (
    Estimate,
    Floats,
    bootstrap_means,
    holm,
    percentile_interval,
    sign_flip_p,
)
from pipo.runs.places import command, resuming

RESULTS_FILE = "results.json"
# Of every comparison, whatever the two evaluations used for their own intervals.
CONFIDENCE = 0.95
RESAMPLES = 10_000
SIGN_PATTERNS = 100_000
SEED = 0

# What makes two scores of a part mean different things.
_IDENTITY = {
    "task": "task",
    "version": "version of the task",
    "template": "template",
    "problems": "number of problems",
    "problems_hash": "problems with their references and tests (hash)",
    "grading_hash": "options of the grader (hash)",
    "prompts_hash": "rendered prompts (hash; the same template may show more or fewer worked problems)",
}
_SAMPLING = ("samples", "temperature", "top_p", "top_k", "max_response_tokens")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a result file says."""

    path: Path
    """The result file."""
    model: str
    """Name of the model."""
    parts: Mapping[str, Mapping[str, Any]]
    """Part -> its description, see ``docs/evaluation.md``."""
    rates: Mapping[str, Floats]
    """Part -> share of right responses to each problem."""
    columns: Sequence[Column]
    """The columns that the average is over."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better the second is."""

    first: float
    """pass@1 of the first."""
    second: float
    """pass@1 of the second."""
    difference: Estimate
    """Second minus first, with its interval."""
    p: float
    """p-value of the sign-flip test."""
    adjusted: float | None
    """p adjusted for the number of parts; None for the average, which is one question of its own."""
    problems: int
    """Number of problems behind it."""
    wins: int
    """Problems at which the second has the larger share of right responses."""
    losses: int
    """Problems at which the second has the smaller share."""

    @property
    def ties(self) -> int:
        """Problems at which both have the same share of right responses."""
        return self.problems - self.wins - self.losses

    @property
    def significant(self) -> bool:
        """Whether chance alone would hardly make such a difference; the test decides, not the interval."""
        return (self.p if self.adjusted is None else self.adjusted) < 1 - CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that is said about two evaluations."""

    parts: Mapping[str, Difference]
    """Part -> difference, for the parts that both have."""
    average: Difference | None
    """Over the columns; None when the two do not average the same, or there is only one part."""
    notes: Sequence[str]
    """What a reader must know: parts of one only, sampling that differs."""


def read_scored(place: Path) -> Scored:
    """A result file, or the one in a folder.

    Raises:
        ConfigError: it does not exist, or is not a result of ``eval.py``.
    """
    path = place / RESULTS_FILE if place.is_dir() else place
    if not path.is_file():
        if (path.parent / "train.log").is_file() or (path.parent / "summary.json").is_file():
            score = command("eval.py", f"model={path.parent}")
            raise ConfigError(f"{place}: a training run; score it with {score}, and compare what that writes")
        if (path.parent / "config.yaml").is_file():
            raise ConfigError(
                f"{place}: no {RESULTS_FILE} yet; go on with {resuming(path.parent, 'eval.py')}"
            )
        raise ConfigError(f"{place}: no {RESULTS_FILE} here; name the folder or the file of an evaluation")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = content["metadata"]["parts"]
        columns = [
            Column(name=name, shares=column["shares"])
            for name, column in content["average"]["columns"].items()
        ]
        _check_complete(path, parts, content["solved"])
        rates = {part: np.array(content["solved"][part]) / parts[part]["samples"] for part in parts}
        wrong = [part for part in parts if len(rates[part]) != parts[part]["problems"]]
        if wrong:
            raise ConfigError(f"{path}: {wrong[0]} does not hold as many results as problems")
        model = content["metadata"]["model"]["name"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a result of eval.py ({type(error).__name__}: {error})") from error
    return Scored(path=path, model=model, parts=parts, rates=rates, columns=columns)


def _check_complete(path: Path, parts: Mapping[str, Any], solved: Mapping[str, Any]) -> None:
    """Refuse a file of another layout, or with numbers that cannot be.

    Raises:
        ConfigError: naming what is missing or wrong.
    """
    for part, described in parts.items():
        flat = {**described["sampling"], **described}
        missing = [key for key in (*_IDENTITY, *_SAMPLING) if key not in flat]
        if missing:
            raise ConfigError(
                f"{path}: {part} has no {', '.join(missing)}; it was written by another version of eval.py"
            )
        n = described["samples"]
        if not isinstance(n, int) or n < 1 or any(not 0 <= c <= n for c in solved[part]):
            raise ConfigError(
                f"{path}: {part}: solved must lie between 0 and samples={n}, which is at least 1"
            )


def compare(first: Scored, second: Scored) -> Comparison:
    """Compare every part that both have, and the average when both form the same.

    Raises:
        ConfigError: there is no such part, or the two scored it differently.
    """
    common = [part for part in first.parts if part in second.parts]
    if not common:
        raise ConfigError(
            f"no part in common: {first.path} has {', '.join(first.parts)}; {second.path} has "
            f"{', '.join(second.parts)}"
        )
    for part in common:
        _check_same(part, first, second)
    notes = [
        f"only in {one.path}: {', '.join(alone)}"
        for one, other in ((first, second), (second, first))
        if (alone := [part for part in one.parts if part not in other.parts])
    ]
    notes += [note for part in common if (note := _sampling_note(part, first, second))]
    notes += [note for part in common if (note := _chat_note(part, first, second))]
    plain = [_difference({part: 1.0}, first, second) for part in common]
    adjusted = holm([difference.p for difference in plain])
    parts = {
        part: dataclasses.replace(difference, adjusted=p)
        for part, difference, p in zip(common, plain, adjusted, strict=True)
    }
    average = None
    if part_weights(first.columns) != part_weights(second.columns):
        notes.append("no average is compared: the two do not average the same parts with the same weights")
    elif len(common) > 1:
        average = _difference(part_weights(first.columns), first, second)
    return Comparison(parts=parts, average=average, notes=notes)


def _check_same(part: str, first: Scored, second: Scored) -> None:
    for key, what in _IDENTITY.items():
        a, b = first.parts[part][key], second.parts[part][key]
        if a != b:
            hint = "; score both with the same evaluation.problems" if key == "problems" else ""
            raise ConfigError(
                f"{part}: the two cannot be compared, their {what} differ: {a} in {first.path}, {b} in "
                f"{second.path}{hint}"
            )


def _sampling_note(part: str, first: Scored, second: Scored) -> str | None:
    a, b = ({**scored.parts[part]["sampling"], **scored.parts[part]} for scored in (first, second))
    differ = [f"{key} {a[key]} and {b[key]}" for key in _SAMPLING if a[key] != b[key]]
    return (
        f"{part}: the sampling differs, so it is part of the difference: {', '.join(differ)}"
        if differ
        else None
    )


def _chat_note(part: str, first: Scored, second: Scored) -> str | None:
    """A chat template comes with its model, so two models may have two; a reader must know."""
    a, b = (scored.parts[part].get("chat_template", "not recorded") for scored in (first, second))
    if a == b:
        return None
    return (
        f"{part}: the chat templates differ (hash {a or 'none'} in {first.path}, {b or 'none'} in "
        f"{second.path}), so they are part of the difference"
    )


def _difference(weights: Mapping[str, float], first: Scored, second: Scored) -> Difference:
    """The weighted mean over parts of the mean difference over a part's problems."""
    deltas = {part: second.rates[part] - first.rates[part] for part in weights}
    draws = [
        w * bootstrap_means(deltas[part], RESAMPLES, (SEED, i)) for i, (part, w) in enumerate(weights.items())
    ]
    low, high = percentile_interval(np.sum(draws, axis=0), CONFIDENCE)
    contributions = np.concatenate([w * deltas[part] / len(deltas[part]) for part, w in weights.items()])
    means = [
        sum(w * float(np.mean(scored.rates[part])) for part, w in weights.items())
        for scored in (first, second)
    ]
    every = np.concatenate(list(deltas.values()))
    return Difference(
        first=means[0],
        second=means[1],
        difference=Estimate(value=float(contributions.sum()), low=low, high=high),
        p=sign_flip_p(contributions, SIGN_PATTERNS, SEED),
        adjusted=None,
        problems=len(every),
        wins=int(np.sum(every > 0)),
        losses=int(np.sum(every < 0)),
    )
