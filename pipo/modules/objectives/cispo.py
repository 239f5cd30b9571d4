"""CISPO: the clipped ratio as a weight on log pi; no token's gradient is ever removed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipo.modules.objectives.base import MicroBatch
from pipo.modules.objectives.grpo import GRPO


class CISPO(GRPO):
    """Clipped importance-sampling policy optimisation (arXiv 2506.13585).

    Args:
        **group_options: see :class:`~pipo.modules.objectives.grpo.GRPO`.
    """

    authors_minimum = False

    def __init__(self, **group_options: Any) -> None:
        super().__init__(**group_options)
        if self.clip.dual is not None:
            raise ValueError("dual_clip must be null: no loss of CISPO grows with the ratio")

    def clipped(self, ratio: Tensor, micro: MicroBatch) -> Tensor:
        """Tokens whose weight was clipped; they keep their gradient."""
        return (ratio < 1 - self.clip.low) | (ratio > 1 + self.clip.high)

    def surrogate(self, ratio: Tensor, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """-stop_gradient(clip(ratio)) * A * log pi."""
        weight = ratio.detach().clamp(1 - self.clip.low, 1 + self.clip.high)
        return -weight * micro.advantages * logprobs
