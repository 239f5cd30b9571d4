"""Options of FSDP2 sharding (gradient reduction, CPU offload) and of LoRA adapters."""

from __future__ import annotations

from typing import Literal

from pipo.records.options import Count, Options, Positive, Precision, Several


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


class Lora(Options):
    """LoRA: low-rank adapters, which are trained in place of the model's own weights."""

    rank: Count | None
    """Rank of each adapter; None for no adapters: all weights are trained."""
    alpha: Positive
    """What an adapter adds counts ``alpha / rank`` times."""
    targets: str | Several[str]
    """Names of the linear layers that get one, or the ends of their names; ``all-linear`` for every one."""
