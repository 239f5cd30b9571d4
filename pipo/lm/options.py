"""Options of FSDP2 sharding: gradient reduction and CPU offload."""

from __future__ import annotations

from typing import Literal

from pipo.records.options import Options, Precision


class Sharding(Options):
    """FSDP2 over all processes."""

    reduce_dtype: Precision
    """Dtype in which gradients are summed over processes."""
    gradient_exchange: Literal["micro_batch", "step"] | None
    """When gradients are summed over processes: with each micro-batch, so that a process holds no more than
    its shard of them; or once per optimiser step, for which it holds a whole gradient. None for whichever
    fits, see :func:`~pipo.lm.sharding.exchanges_each_pass`."""
    cpu_offload: bool
    """Weights, gradients and optimiser state live on the CPU and visit the GPU layer by layer."""
