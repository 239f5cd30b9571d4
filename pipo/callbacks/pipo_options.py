"""Options of PIPO (``conf/pipo``): window, lambda, source of the coefficient, rows, step control."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipo.callbacks.step_options import StepControlOptions
from pipo.records.options import Count, NotNegative, Options, Positive, Share


class ControlOptions(Options):
    """The source of the coefficient; :mod:`pipo.callbacks.coefficient`."""

    feedback: Literal["progress", "paired", "constant", "random_sign"]
    """``progress`` is the method; ``paired`` puts the measured improvement in standard errors in its place;
    ``constant`` takes the same number every time, ``random_sign`` keeps the feedback's size and tosses a coin
    for its direction."""
    constant: Annotated[float, Field(allow_inf_nan=False)]
    """The coefficient of ``feedback=constant``."""


class RowOptions(Options):
    """Rows of the previous batch that the update is made on; :mod:`pipo.callbacks.row_sampling`."""

    row_fraction: Share
    """Share of the rows with attribution that are drawn and reweighted, as an unbiased estimate of the update
    on all of them; 1 is that update itself, bit for bit."""
    rows_follow_coefficient: bool
    """Multiply ``row_fraction`` by min(1, |coefficient|). The estimate's variance is the coefficient's square
    over the number of rows, so that the rows go where they count."""


class PipoOptions(ControlOptions, RowOptions):
    """The closed loop; the numbers in brackets are the steps in :mod:`pipo.callbacks.pipo`."""

    name: str
    """Short name, for reports; any but ``none``."""
    negative_scale: Annotated[float, Field(alias="lambda", ge=0, le=1)]
    """lambda in (2), the factor on the feedback after a drop."""
    window: Annotated[int, Field(ge=2)]
    """K in (1), past mean rewards that the newest is compared with; the first comparison is at t = K + 1."""
    lr_scale: Positive
    """alpha_PI in (4), relative to the base update's learning rate."""
    kl_coef: NotNegative
    """Weight of a KL penalty in (4); the paper has none."""
    mini_batch: Count | None
    """Responses per optimiser step of (4), over all ranks; None for the base update's."""
    deviation: Literal["sample", "population"]
    """sigma in (1): the sample's standard deviation, as in the paper, or the population's, as in the authors'
    code, where it counts as 1 for a window that does not vary."""
    clip: Literal["signed", "authors"]
    """``signed`` is (4). ``authors`` is min(nu, clip(nu)) r_hat where their code has that, with GRPO and
    DAPO: for r_hat < 0 the gradient goes on below the clip range and ends above it."""
    max_progress: Positive | None
    """phi follows xi up to this many standard deviations either way; None for no bound, as in the paper."""
    step_control: StepControlOptions | None
    """The learning rate follows the measured improvement; None for not at all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kl_coef and (self.row_fraction < 1 or self.rows_follow_coefficient):
            raise ValueError(
                f"pipo.kl_coef={self.kl_coef:g} needs pipo.row_fraction=1 and "
                "pipo.rows_follow_coefficient=false: the penalty covers all rows of the batch, also those "
                "that are never drawn"
            )
        return self


class NoPipo(Options):
    """The base objective without a retrospective update."""

    name: Literal["none", "step_control"]
    """``none``, or ``step_control`` for the base objective at a controlled learning rate."""
    step_control: StepControlOptions | None
    """The learning rate follows the measured improvement; None for not at all."""
