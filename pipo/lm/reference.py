"""References and self-teachers: a frozen model, or with adapters the same model without a second one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pipo.functional.divergence import DistillationForm
from pipo.lm.adapters import without_adapters
from pipo.lm.packing import PackedRows
from pipo.lm.policy import DistillationTarget, Policy
from pipo.lm.weights_copy import WeightsCopy


def frozen(policy: Policy) -> Policy:
    """The policy without gradients, in place; it drops nothing out, so that its mode does not matter."""
    return policy.requires_grad_(False)


class WithoutAdapters(nn.Module):
    """The reference of a policy with adapters: the same weights, with the adapters off. It holds nothing.

    Args:
        policy: with adapters.
    """

    policy: Policy

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.__dict__["policy"] = policy  # no submodule

    def forward(self, rows: PackedRows, temperature: float) -> Tensor:
        """Log-probabilities of the sampled tokens; see :class:`~pipo.lm.policy.Policy`."""
        with without_adapters(self.policy):
            return self.policy(rows, temperature)


class OtherAdapters(nn.Module):
    """The averaged self-teacher of a policy with adapters: the same model, with adapters of its own.

    Only these are held. They change places with the policy's while the teacher is asked.

    Args:
        policy: with adapters, of which a copy is made.
    """

    policy: Policy

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.__dict__["policy"] = policy  # no submodule
        self.adapters = WeightsCopy(policy, on_cpu=False)

    @torch.no_grad()
    def forward(self, rows: PackedRows, temperature: float) -> Tensor:
        """Log-probabilities of the sampled tokens; see :class:`~pipo.lm.policy.Policy`."""
        with self.adapters.in_place_of(self.policy):
            return self.policy(rows, temperature)

    def distillation_target(self, rows: PackedRows, form: DistillationForm) -> DistillationTarget:
        """The teacher on the sampled tokens. Its head is the policy's: no adapter is on that."""
        with self.adapters.in_place_of(self.policy):
            return replace(self.policy.distillation_target(rows, form), weight=None)


Scorer = Policy | WithoutAdapters | OtherAdapters
"""What gives log-probabilities."""

Teacher = Policy | OtherAdapters
"""What can be distilled from."""
