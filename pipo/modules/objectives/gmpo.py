"""GMPO: the geometric mean of the clipped token ratios, for the whole response."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipo.functional.surrogate import geometric_mean_ratio
from pipo.modules.objectives.base import MicroBatch
from pipo.modules.objectives.grpo import GRPO


class GMPO(GRPO):
    """Geometric-mean policy optimisation (arXiv 2507.20673, equation 4).

    GSPO clips the geometric mean; here each token's ratio is clipped before the mean is taken, so one token
    beyond the range does not silence the response.

    Args:
        **group_options: see :class:`~pipo.modules.objectives.grpo.GRPO`.
    """

    authors_minimum = False

    def __init__(self, **group_options: Any) -> None:
        super().__init__(**group_options)
        if self.aggregation != "seq-mean-token-mean":
            raise ValueError("GMPO has one ratio for a response, so aggregation must be seq-mean-token-mean")
        if self.clip.dual is not None:
            raise ValueError(
                "dual_clip must be null: GMPO bounds every ratio on the side that its sign needs"
            )

    def surrogate(self, ratio: Tensor, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        """-(geometric mean of the clipped ratios) * A, the same on each of the response's tokens."""
        whole = geometric_mean_ratio(logprobs, micro.old_logprobs, micro.advantages, micro.sampled, self.clip)
        return -whole * micro.advantages
