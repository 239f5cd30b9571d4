"""CISPO: the clipped ratio is a weight on log pi; no token's gradient is ever removed."""

from __future__ import annotations

from torch import Tensor

from pipo.modules.objectives.base import MicroBatch
from pipo.modules.objectives.grpo import GRPO


class CISPO(GRPO):
    """Clipped importance-sampling policy optimisation (arXiv 2506.13585)."""

    def surrogate(self, ratio: Tensor, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """-stop_gradient(clip(ratio)) * A * log pi."""
        weight = ratio.detach().clamp(1 - self.clip.low, 1 + self.clip.high)
        return -weight * micro.advantages * logprobs
