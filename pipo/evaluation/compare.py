"""Paired comparison of two evaluations of the same problems: differences, intervals and sign-flip tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipo.errors import ConfigError
from pipo.evaluation.benchmark import part_weights
from pipo.evaluation.results_file import IDENTITY, SAMPLING, EvaluationFile
from pipo.evaluation.statistics import (
    Estimate,
    bootstrap_means,
    holm,
    percentile_interval,
    sign_flip_p,
)

# Of every comparison, whatever the two evaluations used for their own intervals.
CONFIDENCE = 0.95
RESAMPLES = 10_000
SIGN_PATTERNS = 100_000
SEED = 0


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


def compare(first: EvaluationFile, second: EvaluationFile) -> Comparison:
    """Compare every part that both have, and the average when both form the same.

    Raises:
        ConfigError: there is no such part, or the two measured it differently.
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


def _check_same(part: str, first: EvaluationFile, second: EvaluationFile) -> None:
    for key, what in IDENTITY.items():
        a, b = first.parts[part][key], second.parts[part][key]
        if a != b:
            hint = "; evaluate both with the same evaluation.problems" if key == "problems" else ""
            raise ConfigError(
                f"{part}: the two cannot be compared, their {what} differ: {a} in {first.path}, {b} in "
                f"{second.path}{hint}"
            )


def _sampling_note(part: str, first: EvaluationFile, second: EvaluationFile) -> str | None:
    a, b = ({**each.parts[part]["sampling"], **each.parts[part]} for each in (first, second))
    differ = [f"{key} {a[key]} and {b[key]}" for key in SAMPLING if a[key] != b[key]]
    return (
        f"{part}: the sampling differs, so it is part of the difference: {', '.join(differ)}"
        if differ
        else None
    )


def _chat_note(part: str, first: EvaluationFile, second: EvaluationFile) -> str | None:
    """A chat template comes with its model, so two models may have two; a reader must know."""
    a, b = (each.parts[part].get("chat_template", "not recorded") for each in (first, second))
    if a == b:
        return None
    return (
        f"{part}: the chat templates differ (hash {a or 'none'} in {first.path}, {b or 'none'} in "
        f"{second.path}), so they are part of the difference"
    )


def _difference(weights: Mapping[str, float], first: EvaluationFile, second: EvaluationFile) -> Difference:
    """The weighted mean over parts of the mean difference over a part's problems."""
    deltas = {part: second.rates[part] - first.rates[part] for part in weights}
    draws = [
        w * bootstrap_means(deltas[part], RESAMPLES, (SEED, i)) for i, (part, w) in enumerate(weights.items())
    ]
    low, high = percentile_interval(np.sum(draws, axis=0), CONFIDENCE)
    contributions = np.concatenate([w * deltas[part] / len(deltas[part]) for part, w in weights.items()])
    means = [
        sum(w * float(np.mean(each.rates[part])) for part, w in weights.items()) for each in (first, second)
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
