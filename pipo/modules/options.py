"""Options of AdamW, its schedule and gradient clipping, and of mini-batches and micro-batches."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from pipo.records.options import Count, CountOrNone, NotNegative, Options, Positive

Decay = Annotated[float, Field(ge=0, lt=1)]

Place = Literal["device", "cpu"]
"""Memory that a copy of the weights lies in: that of the device they are on, or the CPU's."""


class AdamWConfig(Options):
    """AdamW and what happens around its steps, at whatever learning rate."""

    beta1: Decay
    """AdamW's first-moment decay."""
    beta2: Decay
    """AdamW's second-moment decay."""
    weight_decay: NotNegative
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)]
    """Gradient clipping: gradients are scaled down to this global norm."""
    warmup_iterations: CountOrNone
    """Warm-up: the learning rate rises linearly over so many iterations."""
    decay: Literal["none", "linear", "cosine"]
    """How the learning rate falls from iteration to iteration, to 0 after the last; ``none`` keeps it."""
    max_skipped_steps: Count
    """After so many steps in a row that were not made, because loss or gradient were not finite, the run
    ends."""


class OptimizerConfig(AdamWConfig):
    """The same at the learning rate of a run."""

    learning_rate: Positive
    """Learning rate of every update, before warm-up and decay."""
    iterations: Count
    """Iterations of the run, over which the rate decays."""

    def rate(self, done: int) -> float:
        """Factor on the learning rate after so many iterations."""
        rise = min(1.0, (done + 1) / max(1, self.warmup_iterations))
        left = max(0.0, 1 - done / self.iterations)
        match self.decay:
            case "linear":
                return rise * left
            case "cosine":
                return rise * (1 - math.cos(math.pi * left)) / 2
            case _:
                return rise


class BatchConfig(Options):
    """How a batch is cut."""

    mini_batch: Count
    """Responses per optimiser step, over all ranks."""
    tokens_per_micro_batch: Count
    """Most tokens of one forward and backward pass on one rank, a prompt counted once for all its responses;
    attention, to which each brings it along, holds up to three times as many."""
