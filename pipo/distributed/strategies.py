"""Lightning strategies: single device, DDP with whole weights, FSDP2 with shards."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy

from pipo.distributed.hardware import Hardware
from pipo.errors import ConfigError


def build_strategy(hardware: Hardware, *, has_critic: bool, cpu_offload: bool, timeout_s: float) -> Strategy:
    """Lightning's strategy.

    Args:
        hardware: the processes.
        timeout_s: seconds that processes wait for each other before the run ends.
        has_critic: whether a second model is trained beside the policy.
        cpu_offload: whether sharded weights live on the CPU.
    """
    match hardware.strategy:
        case "single":
            return SingleDeviceStrategy("cuda:0" if hardware.device == "cuda" else "cpu")
        case "ddp":
            # Policy and critic have a backward pass each, which leaves the other's parameters unused.
            return DDPStrategy(find_unused_parameters=has_critic, timeout=timedelta(seconds=timeout_s))
        case "fsdp":
            if cpu_offload and hardware.device == "cpu":
                raise ConfigError("strategy.sharding.cpu_offload: the weights are on the CPU already")
            return ShardedStrategy(hardware.processes, cpu_offload=cpu_offload, timeout_s=timeout_s)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes.

    Args:
        processes: over all nodes; left to itself, Lightning would shard over nodes only.
        cpu_offload: whether the shards live on the CPU.
        timeout_s: see :func:`build_strategy`.
    """

    def __init__(self, processes: int, *, cpu_offload: bool, timeout_s: float) -> None:
        super().__init__(
            data_parallel_size=processes,
            tensor_parallel_size=1,
            # Norms of offloaded gradients are summed over processes on the CPU.
            process_group_backend="cpu:gloo,cuda:nccl" if cpu_offload else None,
            timeout=timedelta(seconds=timeout_s),
        )
        self.cpu_offload = cpu_offload
        #: What went wrong when the first process wrote what is not sharded, kept until all can hear of it.
        self.write_problem: OSError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write shards together and the rest alone; the others wait, so a failure of the rest is kept."""
        try:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        except OSError as error:
            self.write_problem = error
        except RuntimeError as error:
            # torch reports a failed write as its own error, with the system's behind it.
            if not isinstance(error.__context__, OSError):
                raise
            self.write_problem = error.__context__

    def model_to_device(self) -> None:
        """Sharding has moved the weights already; those that live on the CPU must stay there."""
        if not self.cpu_offload:
            super().model_to_device()
