"""Options of step control and rejection (``conf/pipo/step_control``)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipo.functional.step_control import StepRule
from pipo.records.options import Options, Positive


class Rejection(Options):
    """When the last iteration is undone: the weights go back, and the batch that showed it is left out."""

    most_spread: Positive
    """Most standard deviation, in nats, of how a response's log-probability changed. Beyond it the importance
    weights, and with them the evidence, cannot be trusted."""
    most_harm: Positive
    """Most standard errors by which the policy may have got worse."""
    shrink: Annotated[float, Field(gt=0, lt=1)]
    """Factor on the learning rate after an iteration that was undone."""


class StepControlOptions(StepRule):
    """The learning rate follows the evidence."""

    rejection: Rejection | None
    """When the last iteration is undone; None for never."""
