r"""Step control: the factor on the learning rate follows the evidence of what the steps do.

Along a step of length eta the slope of the reward falls from a eta to a eta - c eta^2. A step that is alone
could go on until nothing is left of it. With Adam's momentum beta_1 a direction is taken 1 / (1 - beta_1)
times in all, so that one step of these should use up 1 - beta_1 of the slope, and leave beta_1 of it:

    z = (slope_after - slope_left * slope_before) / its standard error    slope_left = beta_1 = 0.9
    log factor += gain * clip(z, +- most)                                 bounded each time and in all
    gain = max(least, first / (1 + turns))                                turns: how often z changed its sign

The two sides are compared with each other, so that neither the scale of the reward nor what is chance in it
moves the point of rest; nor does the number of prompts, which is in the error alone, and says how surely one
goes there. Where nothing is left to gain, z is about -eta: the rate falls like one over the time, as
stochastic approximation wants it, and not like an exponential. The falling gain is Kesten's (1958): large
steps until the point of rest is first crossed, small ones around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from pipo.records.options import Cap, Options, Positive, Share


class StepRule(Options):
    """How the rate follows the evidence."""

    slope_left: Annotated[float, Field(ge=0, lt=1)]
    """Share of the slope of the reward that a step should leave at its end. Higher: shorter steps."""
    first_gain: Positive
    """Of the logarithm of the rate per standard error, until the evidence first changes its sign."""
    least_gain: Positive
    """What it falls to."""
    most_evidence: Positive
    """The evidence counts up to so many standard errors either way."""
    least_factor: Share
    """The rate never falls below this times the recipe's."""
    most_factor: Cap
    """The rate never rises above this times the recipe's."""


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """Where the control stands; plain numbers, for checkpoints."""

    log_factor: float = 0.0
    """Natural logarithm of the factor on the recipe's learning rate."""
    turns: int = 0
    """How often the evidence has changed its sign."""
    sign: int = 0
    """Of the newest evidence; 0 before the first."""

    @property
    def factor(self) -> float:
        """On the recipe's learning rate."""
        return math.exp(self.log_factor)


def followed(size: StepSize, evidence: float, rule: StepRule) -> StepSize:
    """The next step size.

    Args:
        size: the present one.
        evidence: z above, in standard errors; nan moves nothing.
        rule: the numbers.
    """
    if math.isnan(evidence):
        return size
    sign = (evidence > 0) - (evidence < 0)
    turns = size.turns + (sign * size.sign < 0)
    gain = max(rule.least_gain, rule.first_gain / (1 + turns))
    bounded = max(-rule.most_evidence, min(rule.most_evidence, evidence))
    return StepSize(
        log_factor=_within(size.log_factor + gain * bounded, rule), turns=turns, sign=sign or size.sign
    )


def shrunk(size: StepSize, factor: float, rule: StepRule) -> StepSize:
    """The step size after a step that was undone."""
    return replace(size, log_factor=_within(size.log_factor + math.log(factor), rule))


def _within(log_factor: float, rule: StepRule) -> float:
    return max(math.log(rule.least_factor), min(math.log(rule.most_factor), log_factor))
