"""The frozen model that the KL penalty measures from."""

from __future__ import annotations

import copy

from pipo.modules.policy import Policy


def frozen_copy(policy: Policy) -> Policy:
    """A copy of the policy as it is now, without gradients and in evaluation mode."""
    return copy.deepcopy(policy).requires_grad_(False).eval()
