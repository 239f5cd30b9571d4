"""Preallocated KV cache: written in place at every token, finished rows dropped."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer in a buffer of known capacity; ``update`` writes in place.

    Args:
        capacity: columns (tokens) the buffer holds; known from the prompts and the response limit.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate on the first update, when rows, heads, width and dtype are known."""
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, width)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append columns and return a view of all that are filled."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        end = self.used + key_states.shape[-2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Filled columns."""
        return self.used

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) rows; only filled columns are copied."""
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty(len(rows), *old.shape[1:])
            torch.index_select(old[:, :, : self.used], 0, rows, out=new[:, :, : self.used])
            setattr(self, name, new)


class PreallocatedCache(Cache):
    """One :class:`PreallocatedLayer` per layer of the model."""

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[PreallocatedLayer(capacity) for _ in range(layers)])

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows, in this order, in every layer."""
        for layer in self.layers:
            assert isinstance(layer, PreallocatedLayer)
            layer.select(rows)


@cache
def cache_argument(kind: type[PreTrainedModel]) -> str:
    """The name under which a model takes its cache: older transformers call it ``past_key_values``."""
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"
