"""Count the bytes of tensors that a piece of code holds, by what they are for; works on fake tensors."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed._tools import fake_collectives  # noqa: F401  (collectives know fake tensors by it)
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

# What the caching allocator of a GPU rounds up to.
GRAIN = 512
GATHERED, EXCHANGE = "gathered weights", "exchange buffers"
# Operations of sharding. What goes in and comes out are buffers; where gathered buffers are split, weights.
_COLLECTIVES, _SPLIT, _JOIN = ("fsdp", "c10d"), "split_with_sizes_copy", "_chunk_cat"


@dataclass
class _Held:
    """A storage that is alive."""

    part: str
    """What it is for."""
    bytes: int
    """Its size."""


class Ledger(TorchDispatchMode):
    """Every operation's new storages, until they are freed, and the moment when they were most.

    What was there before is not counted. Storages that somebody resizes are the buffers that FSDP gathers
    weights into. torch's own ``MemTracker`` counts the same, but keeps books of every module at every
    operation: minutes for a model of 36 layers.

    Attributes:
        part: what new storages are for; callers move it on.
        peak: part -> bytes at the moment when all of them together were most.
    """

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part
        self.peak: Mapping[str, int] = {}
        self._now: Counter[str] = Counter()
        self._most = -1
        self._held = WeakIdKeyDictionary()
        self._standing = WeakIdKeyDictionary()
        self._resize = torch.UntypedStorage.resize_

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Tensors that were there before, whatever happens to them."""
        for tensor in tensors:
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            self._standing[local.untyped_storage()] = True

    def settle(self, part: str) -> None:
        """What is alive now is for this part from now on."""
        for held in self._held.values():
            self._now[held.part] -= held.bytes
            held.part = part
            self._now[part] += held.bytes

    def __enter__(self) -> Ledger:
        resize = self._resize

        def counted(storage: torch.UntypedStorage, size: int) -> None:
            resize(storage, size)
            held = self._held.get(storage)
            if held is not None:
                self._change(held, GATHERED, _rounded(storage.nbytes()))

        torch.UntypedStorage.resize_ = counted  # type: ignore[method-assign, assignment]
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*args)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and book what it has made."""
        if any(kind is DTensor for kind in types):
            return NotImplemented  # it comes back as an operation on the local shard
        if func is torch.ops._c10d_functional.wait_tensor.default:
            return args[0]  # as with real tensors; the fake one is a copy
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self._book(tensor.untyped_storage())
        if func.namespace in _COLLECTIVES or func.__name__.startswith((_SPLIT, _JOIN)):
            self._rename(tree_leaves((kwargs, out)), GATHERED if _SPLIT in func.__name__ else EXCHANGE)
        return out

    def _rename(self, results: Iterable[Any], part: str) -> None:
        for tensor in results:
            held = self._held.get(tensor.untyped_storage()) if isinstance(tensor, Tensor) else None
            if held is not None and held.part != GATHERED:
                self._change(held, part, held.bytes)

    def _book(self, storage: torch.UntypedStorage) -> None:
        size = _rounded(storage.nbytes())
        if storage in self._standing:
            return
        held = self._held.get(storage)
        if held is None:
            held = _Held(self.part, 0)
            self._held[storage] = held
            weakref.finalize(storage, self._change, held, None, 0)
        if held.bytes != size:
            self._change(held, held.part, size)

    def _change(self, held: _Held, part: str | None, size: int) -> None:
        self._now[held.part] -= held.bytes
        held.part, held.bytes = part or held.part, size
        self._now[held.part] += size
        total = self._now.total()
        if total >= self._most:  # also when only a part is renamed
            self._most, self.peak = total, dict(+self._now)


def _rounded(size: int) -> int:
    return -(-size // GRAIN) * GRAIN
