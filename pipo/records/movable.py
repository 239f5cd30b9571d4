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


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on another device; to a GPU by way of page-locked memory, so that this process goes on.

    Out of ordinary memory it would wait until the GPU has done everything that it was told so far.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return sent(value, device)
    if isinstance(value, Movable):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value
