"""Accelerator, devices, nodes and strategy of a run, checked against the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict

from pipo.records.options import Count, Options

if TYPE_CHECKING:
    import torch


class Hardware(Options):
    """Where processes run, one device each; and what else Lightning's trainer is given."""

    # Lightning's own arguments, which pipo.config.trainer_options checks.
    model_config = ConfigDict(extra="allow")

    accelerator: Literal["auto", "cpu", "cuda"]
    """``auto`` takes a CUDA GPU if there is one, else the CPU."""
    devices: Count | Literal["auto"]
    """Processes per node; ``auto`` for every GPU, or one process without GPU."""
    num_nodes: Count
    """Number of machines."""
    strategy: Literal["single", "ddp", "fsdp"]
    """How the processes share the model."""

    def check(self) -> None:
        """Compare with the machine.

        Raises:
            ValueError: naming what does not fit.
        """
        if self.strategy == "single" and self.processes > 1:
            raise ValueError(
                f"{self.processes} processes need strategy=ddp (whole weights) or strategy=fsdp (shards)"
            )
        if self.device == "cuda" and self.per_node > gpus():
            raise ValueError(f"devices={self.per_node}, but this machine has {gpus()} CUDA GPUs")

    @property
    def lightning(self) -> dict[str, Any]:
        """Arguments of Lightning's trainer that are given as they stand; null is as if it were not there."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The kind of device."""
        return default_device() if self.accelerator == "auto" else self.accelerator

    @property
    def per_node(self) -> int:
        """Processes on each node."""
        if self.devices != "auto":
            return self.devices
        return gpus() if self.device == "cuda" else 1

    @property
    def processes(self) -> int:
        """Processes in all."""
        return self.per_node * self.num_nodes


def default_device() -> Literal["cpu", "cuda"]:
    """A CUDA GPU if there is one, else the CPU; other accelerators lack double precision."""
    return "cuda" if gpus() else "cpu"


def gpus() -> int:
    """CUDA GPUs of this machine that can be used."""
    import torch  # takes seconds, and a configuration that is only read needs none of it

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_memory(device: torch.device) -> int | None:
    """Bytes of memory of a GPU; None for a CPU."""
    import torch

    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
