"""A simulated CUDA device: tensors that say ``cuda:0``, compute on the CPU, and refuse to mix with the CPU's.

Data are real, so that programs whose course depends on values run to their end. What is refused, and what
makes a program wait, follows CUDA's rules; see :class:`~tests.simulated_cuda.ledger.Ledger`. Kernels, memory,
streams and speed are not simulated. :func:`~tests.simulated_cuda.guard.load` comes before this module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.simulated_cuda.ledger import Ledger

CUDA = torch.device("cuda", 0)
LEDGER = Ledger()

_aten = torch.ops.aten
# Indices may be the CPU's; they are sent over.
_INDEXING = {
    _aten.index.Tensor,
    _aten._unsafe_index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index_put.default,
}
_READS = {_aten._local_scalar_dense.default, _aten.equal.default}
_SHAPES = {
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.repeat_interleave.Tensor,
}


# Products of bfloat16 that come out in float32 are a GPU's alone.
_ONLY_THERE: dict[Any, Callable[..., Tensor]] = {
    _aten.mm.dtype: lambda a, b, out_dtype: a.to(out_dtype) @ b.to(out_dtype),
    _aten.addmm.dtype_out: lambda total, a, b, out_dtype, *, out: torch.addmm(
        total, a.to(out_dtype), b.to(out_dtype), out=out
    ),
}


class DeviceMismatch(RuntimeError):
    """An operation on tensors of both devices, which a GPU refuses."""


class SimulatedTensor(Tensor):
    """A tensor on the simulated device; ``inner`` holds its data on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> SimulatedTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
            requires_grad=False,
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"SimulatedTensor({self.inner!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Files hold numbers; whoever reads them says where they go."""
        return self.inner.detach().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """The numbers, which the program waits for."""
        LEDGER.note("read")
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Simulation(TorchDispatchMode):
    """Sends every operation through :func:`_run`, those that make tensors out of nothing too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled() and _is_composite(func):
            with self:
                done = func.decompose(*args, **(kwargs or {}))
            if done is not NotImplemented:
                return done
        return _run(func, args, kwargs or {})


@functools.cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _wrap(value: Any) -> Any:
    """On the device; operations take and give tensors and lists of them, and nothing deeper."""
    if isinstance(value, list | tuple):
        return type(value)(_wrap(each) for each in value)
    plain = isinstance(value, Tensor) and not isinstance(value, SimulatedTensor)
    return SimulatedTensor(value) if plain else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_unwrap(each) for each in value]
    return value.inner if isinstance(value, SimulatedTensor) else value


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """One operation by the rules of the simulated device."""
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    own = [each for each in tensors if isinstance(each, SimulatedTensor)]
    if func is _aten._to_copy.default:
        return _converted(func, args[0], dict(kwargs))
    if func is _aten.copy_.default:
        return _copied(func, args, kwargs)
    made_here = not tensors and _is_cuda(kwargs.get("device"))
    if not own and not made_here:
        return func(*args, **kwargs)
    _check(func, args, tensors)
    _count(func, args)
    inner = {name: _unwrap(value) for name, value in kwargs.items() if name != "pin_memory"}
    if _is_cuda(inner.get("device")):
        inner["device"] = torch.device("cpu")
    out = _ONLY_THERE.get(func, func)(*map(_unwrap, args), **inner)
    if func is _aten._local_scalar_dense.default:
        return out
    return _given_back(func, args, kwargs, out)


def _given_back(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Any:
    """The result: for an operation in place the very tensor that was given, else a new one."""
    if "out" in kwargs:
        return kwargs["out"]
    if isinstance(out, Tensor) and func._schema.is_mutable:
        for argument, given in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(given, SimulatedTensor):
                if given.inner.shape != given.shape:
                    raise NotImplementedError(f"{func} changes a shape in place, which is not simulated")
                return given
    return _wrap(out)


def _converted(func: Any, source: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """``to``: another dtype, another device, or a copy."""
    device, soon = kwargs.pop("device", None), kwargs.pop("non_blocking", False)
    here = isinstance(source, SimulatedTensor)
    there = here if device is None else _is_cuda(device)
    out = func(_unwrap(source), **kwargs)
    _note_crossing(source, here, there, soon)
    return _wrap(out) if there else out


def _copied(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """``copy_``: the only operation in place that crosses over."""
    target, source, *rest = args
    here, there = isinstance(source, SimulatedTensor), isinstance(target, SimulatedTensor)
    _note_crossing(source, here, there, bool(rest and rest[0]) or kwargs.get("non_blocking", False))
    func(_unwrap(target), _unwrap(source), *rest, **kwargs)
    return target


def _note_crossing(source: Tensor, here: bool, there: bool, soon: bool) -> None:
    if here and not there:
        LEDGER.note("read")
    elif there and not here:
        LEDGER.note("pinned" if soon and source.is_pinned() else "sent")


def _check(func: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """Refuse both devices in one operation. The CPU's scalars may take part, and its indices.

    Raises:
        DeviceMismatch: as a GPU's kernel would.
    """
    foreign = [each for each in tensors if not isinstance(each, SimulatedTensor) and each.dim() > 0]
    if func in _INDEXING and isinstance(args[0], SimulatedTensor):
        indices = [each for each in args[1] if each is not None]
        sent = [each for each in foreign if any(each is index for index in indices)]
        for _ in sent:
            LEDGER.note("sent")
        foreign = [each for each in foreign if not any(each is one for one in sent)]
    if foreign:
        shapes = ", ".join(str(list(each.shape)) for each in foreign)
        raise DeviceMismatch(f"{func}: tensors of the CPU among those of {CUDA}: {shapes}")


def _count(func: Any, args: Sequence[Any]) -> None:
    """Note what makes the program wait for the device."""
    if func in _READS:
        LEDGER.note("read")
    elif func in _SHAPES or (func in _INDEXING and _takes_a_mask(*args)):
        LEDGER.note("shape")


def _takes_a_mask(_: Tensor, indices: Sequence[Tensor | None], value: Any = None, *__: Any) -> bool:
    """Whether the places have to be counted first; filling with one number needs no count."""
    filled = isinstance(value, Tensor) and not isinstance(value, SimulatedTensor) and value.numel() == 1
    return not filled and any(_is_mask(index) for index in indices)


def _is_mask(index: Tensor | None) -> bool:
    return isinstance(index, SimulatedTensor) and index.dtype in (torch.bool, torch.uint8)


def _pinned(tensor: Tensor, *_: Any) -> Tensor:
    if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        raise RuntimeError("pin_memory: an expanded tensor cannot be copied as it stands")
    copy = tensor.clone()
    copy.page_locked = True  # type: ignore[attr-defined]
    return copy


def _is_pinned(tensor: Tensor, *_: Any) -> bool:
    return getattr(tensor, "page_locked", False)


def _nothing(*_: Any, **__: Any) -> None:
    return None


# What the framework asks of torch.cuda.
_ANSWERS: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "_lazy_init": _nothing,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": _nothing,
    "empty_cache": _nothing,
    "get_device_capability": lambda *_: (7, 0),
    "get_device_name": lambda *_: "simulated",
    "is_bf16_supported": lambda *_: True,
    "manual_seed": _nothing,
    "manual_seed_all": _nothing,
    "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": _nothing,
}


@contextmanager
def simulated_cuda() -> Iterator[Ledger]:
    """A machine with one simulated GPU; yields what it counts."""
    lifted = torch._C._only_lift_cpu_tensors()
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)  # a tensor of numbers is made on the CPU and sent
    torch.__future__.set_swap_module_params_on_conversion(True)  # tied weights stay tied when a model moves
    LEDGER.clear()
    with ExitStack() as stack:
        for name, answer in _ANSWERS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", _pinned))
        stack.enter_context(mock.patch.object(Tensor, "is_pinned", _is_pinned))
        stack.enter_context(_Simulation())
        try:
            yield LEDGER
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)
            torch.__future__.set_swap_module_params_on_conversion(swapped)
