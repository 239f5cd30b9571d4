"""Preallocated KV cache: written in place at every token, with room to copy rows, finished rows dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
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
        # Keys and values are the first rows of these, which have places for more.
        self._places: dict[str, Tensor] = {}

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

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """As ``update`` with one column, [rows, heads, width] each, in as few operations as there can be."""
        assert self.keys is not None
        assert self.values is not None
        self.keys.select(2, self.used).copy_(key)
        self.values.select(2, self.used).copy_(value)
        self.used += 1
        return self.keys.narrow(2, 0, self.used), self.values.narrow(2, 0, self.used)

    def get_seq_length(self) -> int:
        """Filled columns."""
        return self.used

    def select(self, rows: Tensor, room: int) -> None:
        """Keep (or repeat) rows, with places for so many in all; only filled columns are copied."""
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty(room, *old.shape[1:])
            torch.index_select(old[:, :, : self.used], 0, rows, out=new[: len(rows), :, : self.used])
            self._places[name] = new
            setattr(self, name, new[: len(rows)])

    def branch(self, source: Tensor, target: Tensor, rows: int) -> None:
        """Copy rows to other places, of which there are so many now; needs a ``select`` that left room."""
        for name, places in self._places.items():
            filled = places[:, :, : self.used]
            filled.index_copy_(0, target, filled.index_select(0, source))
            setattr(self, name, places[:rows])

    def taken(self, rows: Tensor) -> PreallocatedLayer:
        """A copy of these rows, with room for nothing else."""
        layer = PreallocatedLayer(self.used)
        layer.used, layer.is_initialized = self.used, True
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            setattr(layer, name, old[:, :, : self.used].index_select(0, rows))
        return layer

    def copy(
        self, other: PreallocatedLayer, source: Tensor, target: Tensor, columns: Tensor, rows: int
    ) -> None:
        """Take over rows of another layer, their columns in the given order; see the cache's method."""
        for name in ("keys", "values"):
            old: Tensor = getattr(other, name)
            if not self.is_initialized:
                setattr(self, name, old.new_empty(rows, old.shape[1], self.capacity, old.shape[3]))
            new: Tensor = getattr(self, name)
            # [m, W, heads, width]: indexed axes come first.
            new[target, :, : columns.shape[1]] = old[source[:, None], :, columns].transpose(1, 2)
        assert other.keys is not None
        self.dtype, self.device = other.keys.dtype, other.keys.device
        self.used, self.is_initialized = columns.shape[1], True


class PreallocatedCache(Cache):
    """One :class:`PreallocatedLayer` per layer of the model."""

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[PreallocatedLayer(capacity) for _ in range(layers)])

    def select(self, rows: Tensor, room: int | None = None) -> None:
        """Keep (or repeat) these rows, in this order, in every layer.

        Args:
            rows: int64, which ones.
            room: rows that there may be later, by :meth:`branch`; None for no more than these.
        """
        for layer in self.layers:
            assert isinstance(layer, PreallocatedLayer)
            layer.select(rows, len(rows) if room is None else room)

    def branch(self, source: Tensor, target: Tensor, rows: int) -> None:
        """Copy rows to other places, in every layer.

        Args:
            source: int64 [m], rows of the cache.
            target: int64 [m], where they go, over what is there or behind the last row.
            rows: that the cache has then.
        """
        for layer in self.layers:
            assert isinstance(layer, PreallocatedLayer)
            layer.branch(source, target, rows)

    def taken(self, rows: Tensor) -> PreallocatedCache:
        """A copy of these rows."""
        cache = PreallocatedCache(0, 0)
        for layer in self.layers:
            assert isinstance(layer, PreallocatedLayer)
            cache.layers.append(layer.taken(rows))
        return cache

    def copy(
        self, other: PreallocatedCache, source: Tensor, target: Tensor, columns: Tensor, *, rows: int
    ) -> None:
        """Take over rows of another cache into this one, which is empty but for rows taken over before.

        Args:
            other: of the same model.
            source: int64 [m], rows of the other.
            target: int64 [m], where they go.
            columns: int64 [m, W], which columns of the other's rows become the first W.
            rows: that this cache will have in all.
        """
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            assert isinstance(mine, PreallocatedLayer)
            assert isinstance(theirs, PreallocatedLayer)
            mine.copy(theirs, source, target, columns, rows)
