"""Disk room that a run needs for its checkpoints and its model, told and checked before it begins."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import lightning.pytorch as pl
from rich.console import Console
from torch import Tensor
from torch.distributed.tensor import DTensor

from pipo.runs import checkpoints

# What is smaller is not worth a line on the terminal.
_SAID = 10**9


@dataclass(frozen=True, kw_only=True)
class NeededBytes:
    """What a run writes that is large."""

    checkpoint: int
    """One checkpoint: every model that is saved, and two moments of each trained weight."""
    copies: int
    """Checkpoints that are on the disk at a time, the one that is being written included."""
    model: int
    """The model that is exported at the end."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.checkpoint * self.copies + self.model


def needed_bytes(module: pl.LightningModule, copies: int) -> NeededBytes:
    """Of a module whose optimisers are AdamW; of weights in shards, all of them together."""
    # What has several names, as a head that is tied to the embeddings, is written once.
    state = {_place(value): _bytes(value) for value in module.state_dict().values() if _holds(value)}
    trained = sum(_bytes(parameter) for parameter in module.parameters() if parameter.requires_grad)
    policy = sum(
        _bytes(parameter) for name, parameter in module.named_parameters() if name.startswith("policy.")
    )
    return NeededBytes(checkpoint=sum(state.values()) + 2 * trained, copies=copies, model=policy)


def room_problem(folder: Path, needed: NeededBytes) -> str | None:
    """Why the disk of a folder of checkpoints is too small; None when it is not. Says what a run takes.

    What checkpoints lie there already is going to be replaced.
    """
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    kept = [path for each in checkpoints.finished_checkpoints(folder) for path in each.rglob("*")]
    free = shutil.disk_usage(place).free + sum(path.stat().st_size for path in kept if path.is_file())
    said = (
        f"{needed.copies} checkpoints of {_shown(needed.checkpoint)} at a time and a model of "
        f"{_shown(needed.model)}"
    )
    if free < needed.total:
        return (
            f"{folder}: no room for {said}, {_shown(needed.total)} in all; {_shown(free)} are free. Make "
            "room, name another output_dir=, or lower checkpoint.keep"
        )
    if needed.total > _SAID:
        Console().print(f"on the disk: {said}; {_shown(free)} are free", highlight=False)
    return None


def _holds(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.numel() > 0


def _place(tensor: Tensor) -> tuple[int, int]:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.data_ptr(), tensor.numel()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _shown(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
