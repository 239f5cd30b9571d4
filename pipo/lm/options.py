"""Options of FSDP2 sharding: gradient reduction dtype and CPU offload."""

from __future__ import annotations

from pipo.records.options import Options, Precision


class Sharding(Options):
    """FSDP2 over all processes."""

    reduce_dtype: Precision
    """Dtype in which gradients are summed over processes."""
    cpu_offload: bool
    """Weights, gradients and optimiser state live on the CPU and visit the GPU layer by layer."""
