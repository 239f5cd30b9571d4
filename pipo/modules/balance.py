"""Token balance over ranks: the rows of an optimiser step go where there is least to do.

Advantages, attribution and denominators are there by then, so that a row can be trained on anywhere. What the
step computes stays the same but for the order in which gradients are added.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipo.distributed.collectives import all_gather, exchange, world
from pipo.functional.token_balance import token_shares
from pipo.modules.batching import batch_rows, even_groups, group_micro_batches, grouped, micro_batches
from pipo.modules.objectives.base import MicroBatch
from pipo.records.batches import PolicyBatch


def balanced_micro_batches(
    batch: PolicyBatch,
    rows: Tensor,
    token_budget: int,
    device: torch.device,
    max_over_ranks: Callable[[int], int],
) -> list[MicroBatch]:
    """Micro-batches of this rank for an optimiser step; all ranks call it together.

    Ranks get about the same number of tokens, and so do their forward passes, because sharded models wait for
    each other in each. One process keeps its rows as they are.

    Args:
        batch: this rank's batch, on the CPU.
        rows: int64, this rank's rows that the step trains on.
        token_budget: see :func:`~pipo.modules.batching.row_groups`.
        device: where the process group's backend wants what is sent.
        max_over_ranks: largest value over all ranks.
    """
    rank, ranks = world()
    if ranks == 1:
        return micro_batches(batch, rows, token_budget)
    parts = all_gather(batch_rows(batch, rows))
    everything = [row._replace(prompt=row.prompt * ranks + r) for r, part in enumerate(parts) for row in part]
    homes = [r for r, part in enumerate(parts) for _ in part]
    shares = token_shares([row.cost for row in everything], ranks)
    own = [[everything[i].place for i in share if homes[i] == rank] for share in shares]
    sent = [batch.rows(torch.tensor(places, dtype=torch.int64)) for places in own]
    held = PolicyBatch.join(exchange(sent, device))
    sized = [everything[i]._replace(place=place) for place, i in enumerate(shares[rank])]
    groups = grouped(sized, token_budget)
    passes = max(1, max_over_ranks(len(groups)))
    return group_micro_batches(held, even_groups(sized, groups, token_budget, passes))
