"""Importance sampling of rows for PIPO's retrospective update: a few rows, reweighted, stand for all.

This goes beyond the paper; the probabilities and why the estimate is unbiased are in
:mod:`pipo.functional.row_sampling`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from pipo.distributed.collectives import world
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.errors import ConfigError
from pipo.functional.row_sampling import sampled_attribution
from pipo.modules.batching import mini_batches
from pipo.modules.hooks import Learner
from pipo.records.batches import PolicyBatch

# Module, previous batch, coefficient, iteration -> the attribution to train on; rows of zeros are left out.
RowChooser = Callable[[Learner, PolicyBatch, float, int], Tensor]


class RowOptions(BaseModel, frozen=True, strict=True, extra="forbid", validate_by_name=True):
    """Which rows of the previous batch the retrospective update is made on."""

    row_fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    """Share of the rows with attribution that are drawn and reweighted, as an unbiased estimate of the update
    on all of them; 1 is that update itself, bit for bit."""

    rows_follow_coefficient: bool
    """Multiply ``row_fraction`` by min(1, |coefficient|). The estimate's variance is the coefficient's square
    over the number of rows, so that the rows go where they count."""


def row_chooser(options: RowOptions, mini_batch: int | None, kl_coef: float) -> RowChooser:
    """What picks the rows of a retrospective update.

    Every optimiser step has a draw of its own: its gradient is right on average at the weights it meets,
    though these depend on the draws before it. A rank that draws nothing takes part without rows.

    Args:
        options: how many rows.
        mini_batch: responses per retrospective optimiser step over all ranks; None for the run's own.
        kl_coef: weight of a penalty in the retrospective update.

    Raises:
        ConfigError: when a penalty would miss the rows that are left out.
    """
    if kl_coef and (options.row_fraction < 1 or options.rows_follow_coefficient):
        raise ConfigError(
            f"pipo.kl_coef={kl_coef} needs pipo.row_fraction=1 and pipo.rows_follow_coefficient=false: "
            "the penalty covers all rows of the batch, also those that are never drawn"
        )

    def choose(module: Learner, previous: PolicyBatch, coefficient: float, iteration: int) -> Tensor:
        fraction = options.row_fraction
        if options.rows_follow_coefficient:
            fraction *= min(1.0, abs(coefficient))
        if fraction == 1:
            return previous.attribution
        size = module.own_mini_batch(mini_batch or module.batching.mini_batch)
        draws = random.Random(derive_seed(module.seed, Purpose.ROWS, iteration, world()[0]))
        parts = [
            sampled_attribution(previous.attribution[rows], previous.sampled[rows], fraction, draws.random())
            for rows in mini_batches(len(previous), size)
        ]
        return torch.cat(parts)

    return choose
