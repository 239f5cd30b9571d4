"""The one hook that Lightning lacks: between sampling and the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import lightning.pytorch as pl

if TYPE_CHECKING:
    from torch import Tensor

    from pipo.modules.policy_module import PolicyModule
    from pipo.records.batches import PolicyBatch
    from pipo.records.rollouts import Rollouts


@dataclass(frozen=True, kw_only=True)
class IterationStats:
    """What every rank knows about the iteration.

    Attributes:
        iteration: counted from 0.
        mean_reward: mu_t, mean verifier reward over all sampled responses of all ranks.
        policy_learns: False while only a critic is trained.
    """

    iteration: int
    mean_reward: float
    policy_learns: bool


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """An optimiser step that was not made because its numbers were not finite; the same on every rank.

    Attributes:
        iteration: counted from 0.
        update: ``policy``, ``pipo`` or ``value``.
        loss: over all ranks.
        grad_norm: before clipping.
        in_a_row: how many steps were skipped since the last that was made, this one included.
    """

    iteration: int
    update: str
    loss: float
    grad_norm: float
    in_a_row: int


class RolloutCallback(pl.Callback):
    """A Lightning callback that also acts on the rollouts of an iteration."""

    def on_rollouts_ready(
        self,
        trainer: pl.Trainer,
        module: PolicyModule,
        rollouts: Rollouts,
        batch: PolicyBatch,
        stats: IterationStats,
    ) -> None:
        """Called inside ``training_step``: responses are graded, the base update has not begun.

        The old log-probabilities in ``batch`` are already fixed, so an update made here is seen by the
        base update as what it is: a change of the policy since sampling.
        """

    def on_step_skipped(
        self, trainer: pl.Trainer, module: PolicyModule, batch: PolicyBatch, rows: Tensor, step: SkippedStep
    ) -> None:
        """Called on every rank after an optimiser step was left out; weights and optimiser are untouched.

        ``batch`` and ``rows`` are this rank's share of the mini-batch.
        """
