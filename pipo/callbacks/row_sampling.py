"""Importance sampling of rows for PIPO's retrospective update: a few rows, reweighted, stand for all.

This goes beyond the paper; the probabilities and why the estimate is unbiased are in
:mod:`pipo.functional.row_sampling`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from pipo.callbacks.pipo_options import RowOptions
from pipo.distributed.collectives import world
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.functional.row_sampling import sampled_attribution
from pipo.modules.batching import mini_batches
from pipo.modules.hooks import Learner
from pipo.records.batches import PolicyBatch

# Module, previous batch, coefficient, iteration -> the attribution to train on; rows of zeros are left out.
RowChooser = Callable[[Learner, PolicyBatch, float, int], Tensor]


def row_chooser(options: RowOptions, mini_batch: int | None) -> RowChooser:
    """What picks the rows of a retrospective update.

    Every optimiser step has a draw of its own: its gradient is right on average at the weights it meets,
    though these depend on the draws before it. A rank that draws nothing takes part without rows.

    Args:
        options: how many rows.
        mini_batch: responses per retrospective optimiser step over all ranks; None for the run's own.
    """

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
