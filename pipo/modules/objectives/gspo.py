"""GSPO: sequence-level ratio and clipping, for the whole response."""

from __future__ import annotations

from torch import Tensor

from pipo.functional.surrogate import sequence_ratio
from pipo.modules.objectives.base import MicroBatch
from pipo.modules.objectives.grpo import GRPO


class GSPO(GRPO):
    """Group sequence policy optimisation (arXiv 2507.18071)."""

    authors_minimum = False

    def ratio(self, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """Exp of the mean log-ratio of the response, on each of its sampled tokens."""
        return sequence_ratio(logprobs, micro.old_logprobs, micro.sampled)
