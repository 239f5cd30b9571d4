"""Importance correction between sampler and trainer: truncated weights, and rejection (masking)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipo.records.options import Cap, CorrectionLevel, Options, RatioLevel, Share


class Rejection(Options):
    """What is left out because trainer and sampler disagree too much: masked importance sampling."""

    level: RatioLevel
    """A token goes by its own ratio; a response, with all of its tokens, by the product or by the geometric
    mean of theirs."""
    low: Annotated[float, Field(gt=0, le=1)] | None
    """Ratios below are left out; None for no bound."""
    high: Cap | None
    """Ratios above are left out; None for no bound."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("a rejection needs low, high or both")
        return self


class ImportanceCorrection(Options):
    """Importance weights between sampler and trainer."""

    level: CorrectionLevel
    """One weight per token, one per response, or none."""
    cap: Cap | None
    """Larger weights are truncated to this; None for no bound."""
    floor: Share | None = None
    """Smaller weights are raised to this; None for no bound."""
    rejection: Rejection | None = None
    """Weights that become zero; None for none."""

    @property
    def corrects(self) -> bool:
        """Whether any weight can differ from 1."""
        return self.level != "none" or self.rejection is not None
