"""Functions of the mask of sampled tokens, the loss mask of a response."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def last_sampled(sampled: Tensor) -> Tensor:
    """Position of the last sampled token of every row.

    *Example:* sampled sampled inserted sampled padding -> 3.

    Args:
        sampled: bool [n, R].

    Returns:
        int64 [n]; -1 for a row without a sampled token.
    """
    before = F.pad(sampled, (1, 0), value=True)  # so that a row without one has a last one, too
    return (before * torch.arange(before.shape[1], device=sampled.device)).amax(dim=1) - 1
