"""Freeze a policy: the reference model of the KL penalty, and the initial self-teacher."""

from __future__ import annotations

from pipo.lm.policy import Policy


def frozen(policy: Policy) -> Policy:
    """The policy without gradients, in place; it drops nothing out, so that its mode does not matter."""
    return policy.requires_grad_(False)
