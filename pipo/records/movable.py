"""Records of tensors that go to another device as a whole."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


class Movable:
    """Base of a dataclass whose tensors, and those of the records in it, belong on one device."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        assert is_dataclass(self)
        moved = {field.name: _moved(getattr(self, field.name), device) for field in fields(self)}
        return replace(self, **moved)  # type: ignore[return-value]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor | Movable):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value
