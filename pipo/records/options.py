"""Base of every closed node of the configuration: typed, frozen, and strict about what it is given."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

T = TypeVar("T")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # YAML has no tuples


Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A whole number above 0."""

CountOrNone = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A whole number, 0 for none."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A number above 0."""

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A number from 0 on."""

Cap = Annotated[float, Field(ge=1, allow_inf_nan=False)]
"""A bound on a weight that is 1 where nothing is corrected."""

Share = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole, not nothing."""

Several = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
"""A tuple, which YAML writes as a list."""

Precision = Literal["float32", "bfloat16"]
"""A type of floating-point numbers that weights, products and sums can have."""

RatioLevel = Literal["token", "sequence", "geometric"]
"""Ratio of two policies: of each token, the product over a response, or the geometric mean over it."""

CorrectionLevel = Literal["token", "sequence", "geometric", "none"]
"""Importance weights by one of these ratios, or none."""


class Options(BaseModel):
    """Values that a YAML file holds.

    An integer passes for a float; nothing else is converted. Unknown names, missing
    ones and numbers out of their range raise ``pydantic.ValidationError``, a ``ValueError``.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
