"""The checks that every record of tensors makes of its fields."""

from __future__ import annotations

import torch
from torch import Tensor


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Compare shape and type with what they must be.

    Raises:
        ValueError: naming the field.
    """
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: expected {dtype}, got {tensor.dtype}")


def check_masks(response_mask: Tensor, sampled: Tensor) -> None:
    """The promises of the two masks of responses; both bool [N, R].

    Raises:
        ValueError: when padding stands before a response token, which would silently shift everything that
            is counted from the last one, or when a token of no response is called sampled.
    """
    gaps = (response_mask[:, 1:] & ~response_mask[:, :-1]).any(dim=1)
    if gaps.any():
        row = int(gaps.nonzero()[0, 0])
        raise ValueError(
            f"response_mask: row {row} has padding before a response token, expected right padding"
        )
    stray = (sampled & ~response_mask).any(dim=1)
    if stray.any():
        raise ValueError(f"sampled: row {int(stray.nonzero()[0, 0])} is True on padding")
