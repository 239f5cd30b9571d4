"""The frozen model that the KL penalty measures from, and the one that a self-teacher begins as."""

from __future__ import annotations

from pipo.lm.policy import Policy


def frozen(policy: Policy) -> Policy:
    """The policy without gradients, in place; it drops nothing out, so that its mode does not matter."""
    return policy.requires_grad_(False)
