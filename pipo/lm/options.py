"""How weights are sharded."""

from __future__ import annotations

from typing import Literal

from pipo.records.options import Options


class Sharding(Options):
    """FSDP2 over all processes."""

    reduce_dtype: Literal["float32", "bfloat16"]
    """In which gradients are summed over processes."""
    cpu_offload: bool
    """Weights, gradients and optimiser state live on the CPU and visit the GPU layer by layer."""
