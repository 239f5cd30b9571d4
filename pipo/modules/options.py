"""Options of the updates, filled from the configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and what happens around its steps.

    Attributes:
        learning_rate: of every update; constant after the warm-up.
        beta1: AdamW's first-moment decay.
        beta2: AdamW's second-moment decay.
        weight_decay: decoupled weight decay.
        max_grad_norm: gradients are scaled down to this global norm.
        warmup_iterations: the rate rises linearly over so many iterations; 0 for none.
        max_skipped_steps: after so many steps in a row that were not made, because loss or gradient were not
            finite, the run ends.
    """

    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float
    max_grad_norm: float
    warmup_iterations: int
    max_skipped_steps: int

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be >= 0 and finite, got {self.weight_decay}")
        if self.warmup_iterations < 0:
            raise ValueError(f"warmup_iterations must be >= 0, got {self.warmup_iterations}")
        if self.max_skipped_steps < 1:
            raise ValueError(f"max_skipped_steps must be >= 1, got {self.max_skipped_steps}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, got {self.max_grad_norm}")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How a batch is cut.

    Attributes:
        mini_batch: responses per optimiser step, over all ranks.
        tokens_per_micro_batch: most tokens of one forward and backward pass on one rank, a prompt counted
            once for all its responses; attention, to which each brings it along, holds up to three times as
            many.
    """

    mini_batch: int
    tokens_per_micro_batch: int

    def __post_init__(self) -> None:
        if self.mini_batch < 1:
            raise ValueError(f"mini_batch must be >= 1, got {self.mini_batch}")
        if self.tokens_per_micro_batch < 1:
            raise ValueError(f"tokens_per_micro_batch must be >= 1, got {self.tokens_per_micro_batch}")
