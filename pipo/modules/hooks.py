"""Protocol and hooks of callbacks between sampling and the update, where Lightning has no hook."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from pipo.distributed.collectives import Number
from pipo.distributed.metrics import IterationMetrics
from pipo.functional.improvement import Improvement
from pipo.lm.policy import Policy
from pipo.lm.reference import Teacher
from pipo.modules.objectives.base import Objective
from pipo.modules.options import BatchConfig, Place
from pipo.records.batches import PolicyBatch
from pipo.records.rollouts import Rollouts
from pipo.rollout.collector import Collector
from pipo.rollout.engine import RolloutEngine


class Learner(Protocol):
    """What a callback may touch of the policy module; anything else may change from one day to the next.

    The order in which it is valid: models and engine from ``on_fit_start`` on, ``row`` from the end of an
    iteration to the end of the next.
    """

    seed: int
    """The run's seed; :func:`~pipo.distributed.seeds.derive_seed` makes others of it."""

    row: dict[str, float]
    """Metrics of the newest iteration. May be added to until ``IterationLog`` writes it."""

    metrics: IterationMetrics
    """Collects the running iteration's metrics on this rank: ``add`` and ``timer``."""

    skipped_in_a_row: int
    """Optimiser steps that were skipped since the last that was made. Set only when resuming."""

    look_back: Place | None
    """Where the weights before the last iteration are kept; None where it is not measured."""

    rate_factor: float
    """Factor on the learning rate of every update of the policy. May be moved, on all ranks alike."""

    collector: Collector
    """Samples and grades; read its task and its decoder."""

    objective: Objective
    """The algorithm; read what it needs."""

    batching: BatchConfig
    """How a batch is cut; read only."""

    policy: Policy
    """The weights that are trained. Change them through ``policy_update`` alone."""

    teacher: Teacher
    """The policy itself, or the average that it is distilled from, which a callback may move."""

    engine: RolloutEngine
    """Samples from the policy; inside ``sampling()``."""

    @property
    def device(self) -> torch.device:
        """Where this process computes; batches are on the CPU."""
        ...

    def policy_update(
        self, batch: PolicyBatch, *, prefix: str, lr_scale: float = 1.0, mini_batch: int | None = None
    ) -> int:
        """One more update of the policy, on all ranks together; returns how many steps were made."""
        ...

    def own_mini_batch(self, size: int) -> int:
        """This rank's share of a mini-batch; refuses one that cannot be shared evenly."""
        ...

    def sampling(self) -> AbstractContextManager[None]:
        """Around any use of the engine; all ranks enter together."""
        ...

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Sum of a CPU tensor over all ranks; all call it together."""
        ...

    def max_over_ranks(self, value: Number) -> Number:
        """Largest value over all ranks; all call it together."""
        ...


def learner(module: pl.LightningModule) -> Learner:
    """Lightning's hooks are given any module; in this package it is always the policy module."""
    return cast(Learner, module)


@dataclass(frozen=True, kw_only=True)
class IterationStats:
    """What every rank knows about the iteration."""

    iteration: int
    """Counted from 0."""
    mean_reward: float
    """mu_t, mean verifier reward over all sampled responses of all ranks."""
    improvement: Improvement | None
    """What the last iteration did; None where that is not measured, or nothing moved."""
    undone: bool
    """Whether the last iteration was undone, so that this one's batch is of weights that are gone."""
    policy_learns: bool
    """Whether the policy is trained; not while only a critic is, nor where the last iteration was undone."""


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """An optimiser step that was not made because its numbers were not finite; the same on every rank."""

    iteration: int
    """Counted from 0."""
    update: str
    """Kind of update: ``policy``, ``pipo`` or ``value``."""
    loss: float
    """Loss over all ranks."""
    grad_norm: float
    """Gradient norm before clipping."""
    in_a_row: int
    """How many steps were skipped since the last that was made, this one included."""


class RolloutCallback(pl.Callback):
    """A Lightning callback that also acts on the rollouts of an iteration."""

    def on_look_back(
        self, trainer: pl.Trainer, module: Learner, improvement: Improvement | None, mean_reward: float
    ) -> bool:
        """Called inside ``training_step`` before anything else acts, where the last iteration is measured.

        Args:
            trainer: Lightning's.
            module: the policy module.
            improvement: what the last iteration did; None where the batch cannot tell.
            mean_reward: mu_t, of the batch that it was measured on.

        Returns:
            Whether that iteration is to be undone. All ranks are told the same and must answer the same.
        """
        return False

    def on_rollouts_ready(
        self,
        trainer: pl.Trainer,
        module: Learner,
        rollouts: Rollouts,
        batch: PolicyBatch,
        stats: IterationStats,
    ) -> None:
        """Called inside ``training_step``: responses are graded, the base update has not begun.

        The old log-probabilities in ``batch`` are already fixed, so an update made here is seen by the
        base update as what it is: a change of the policy since sampling.
        """

    def on_step_skipped(
        self, trainer: pl.Trainer, module: Learner, batch: PolicyBatch, rows: Tensor, step: SkippedStep
    ) -> None:
        """Called on every rank after an optimiser step was left out; weights and optimiser are untouched.

        ``batch`` and ``rows`` are this rank's share of the mini-batch.
        """
