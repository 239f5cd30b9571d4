"""All-reduce (sum, max), all-gather and all-to-all over ranks; with one process nothing is sent."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipo.errors import ConfigError

Number = TypeVar("Number", int, float)
Value = TypeVar("Value")


def world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def all_reduce_sum(value: Tensor, device: torch.device | None = None) -> Tensor:
    """Sum over ranks; the result is on the CPU.

    Args:
        value: any tensor on the CPU.
        device: where the process group's backend wants it (an accelerator for NCCL).
    """
    if world()[1] == 1:
        return value
    moved = value.to(device, copy=True) if device is not None else value.clone()
    dist.all_reduce(moved, op=dist.ReduceOp.SUM)
    return moved.cpu()


def all_reduce_max(value: Number, device: torch.device | None = None) -> Number:
    """Largest value over ranks."""
    if world()[1] == 1:
        return value
    moved = torch.tensor([value], device=device)
    dist.all_reduce(moved, op=dist.ReduceOp.MAX)
    return type(value)(moved.item())


def all_gather(value: Value) -> list[Value]:
    """Every rank's value, in their order, on every rank; any picklable object of this program's own."""
    ranks = world()[1]
    if ranks == 1:
        return [value]
    parts: list[Any] = [None] * ranks
    dist.all_gather_object(parts, value)
    return parts


def gather(value: Value) -> list[Value]:
    """Every rank's value, in their order, on the first rank; the others get an empty list."""
    rank, ranks = world()
    if ranks == 1:
        return [value]
    parts: list[Any] = [None] * ranks if rank == 0 else []
    dist.gather_object(value, parts if rank == 0 else None, dst=0)
    return parts


def exchange(parts: Sequence[Value], device: torch.device | None = None) -> list[Value]:
    """What every rank has for this one, in their order.

    Args:
        parts: one for each rank; picklable objects of this program's own.
        device: see :func:`all_reduce_sum`.
    """
    if world()[1] == 1:
        return list(parts)
    sent = [torch.frombuffer(bytearray(pickle.dumps(part)), dtype=torch.uint8) for part in parts]
    sizes = torch.tensor([len(each) for each in sent], device=device)
    own_sizes = torch.empty_like(sizes)
    dist.all_to_all_single(own_sizes, sizes)
    lengths: list[int] = own_sizes.tolist()
    received = torch.empty(sum(lengths), dtype=torch.uint8, device=device)
    dist.all_to_all_single(received, torch.cat(sent).to(device), lengths, [len(each) for each in sent])
    return [pickle.loads(each.numpy().tobytes()) for each in received.cpu().split(lengths)]


def own_part(parts: Sequence[Value]) -> Value:
    """This rank's part of what :func:`gather` collected for a checkpoint.

    Raises:
        ConfigError: when the checkpoint was written by another number of ranks.
    """
    rank, ranks = world()
    if len(parts) != ranks:
        raise ConfigError(
            f"the checkpoint holds the state of {len(parts)} processes and cannot be resumed with {ranks}; "
            "use the same number of devices"
        )
    return parts[rank]
