"""Options of an evaluation: problems, samples, pass@k, confidence intervals, sampling."""

from __future__ import annotations

import itertools
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipo.records.options import Count, CountOrNone, Options, Several


class Measurement(Options):
    """What every measurement says."""

    samples: Count
    """n, responses per problem."""
    ks: Several[Count]
    """The k of pass@k, rising, starting with 1 and at most ``samples``."""
    prompts_per_batch: Count
    """Problems generated and graded at a time; several ranks take smaller batches, so that all have some."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    """Confidence level of the intervals."""
    resamples: Count
    """Bootstrap resamples behind each interval."""
    seed: CountOrNone
    """Seed of sampling and of the bootstrap."""

    @model_validator(mode="after")
    def _check_ks(self) -> Self:
        if not self.ks or self.ks[0] != 1 or any(a >= b for a, b in itertools.pairwise(self.ks)):
            raise ValueError(f"ks must rise and start with 1, got {list(self.ks)}")
        if self.ks[-1] > self.samples:
            raise ValueError(f"ks: pass@{self.ks[-1]} needs that many samples, but samples={self.samples}")
        return self


class EvaluationPlan(Measurement):
    """A measurement that is about to be made."""

    majority: bool
    """Whether to put the responses to the vote too (maj@n), where the task can compare answers."""


class EvaluationConfig(Measurement):
    """The full evaluation, as the configuration says it."""

    problems: Count | None
    """Number of held-out problems, the first so many; None for all."""

    def plan(self) -> EvaluationPlan:
        """The measurement, with a vote."""
        return EvaluationPlan(majority=True, **self.model_dump(exclude={"problems"}))
