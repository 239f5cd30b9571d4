"""Optimiser steps by simulation: forward passes, processes that wait, padding in attention.

Lengths are drawn, and the program's own functions deal the rows to the processes and pack them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist

import numpy as np

from pipo.functional.token_balance import token_shares
from pipo.lm.packing import similar_lengths
from pipo.modules.batching import SizedRow, even_groups, grouped
from pipo.plan.lengths import Lengths
from pipo.plan.options import Assumptions
from pipo.plan.sizes import Sizes

STEPS = 3  # that are drawn; their mean counts


@dataclass(frozen=True, kw_only=True)
class Work:
    """A forward pass over every row of some, in all processes; 1 is even, or nothing lost, where not said."""

    passes: float
    """Forward passes of each process."""
    tokens: float
    """Tokens that a process reads, on average."""
    slowest: float
    """Time until all processes are done, relative to that of the mean one."""
    idle: float
    """Share of all processes' time that passes without a row."""
    padded: float
    """Work of attention with the padding of its calls, relative to the rows alone."""

    @staticmethod
    def mean(found: Sequence[Work]) -> Work:
        """Of several."""
        return Work(
            **{each.name: statistics.mean(getattr(f, each.name) for f in found) for each in fields(Work)}
        )


def step_work(sizes: Sizes, assume: Assumptions, *, waits: bool, share: float = 1.0) -> Work:
    """Of an optimiser step, whose rows go where there is least to do.

    Args:
        sizes: of the run.
        assume: lengths, and how alike they are within a group.
        waits: processes wait for each other in every pass (shards), and not only at the end.
        share: of the groups that is trained on.
    """
    prompts = max(1, round(sizes.step_rows * sizes.processes / sizes.group))
    ranks = range(sizes.processes)
    found = []
    for seed in range(STEPS):
        rows = _drawn(sizes, assume, max(1, round(share * prompts)), seed)
        shares = token_shares([row.cost for row in rows], sizes.processes)
        own = [[rows[i] for i in each] for each in shares]
        filled = [grouped(each, sizes.budget) for each in own]
        passes = max(len(groups) for groups in filled)
        if sizes.processes > 1:
            filled = [even_groups(own[rank], filled[rank], sizes.budget, passes) for rank in ranks]
        found.append(_work(rows, filled, waits=waits))
    return Work.mean(found)


def scoring_work(sizes: Sizes, assume: Assumptions, *, waits: bool) -> Work:
    """Of scoring an iteration's responses, which stay where they were sampled."""
    own_prompts = max(1, round(sizes.rows / sizes.group))
    found = []
    for seed in range(STEPS):
        rows = _drawn(sizes, assume, own_prompts * sizes.processes, seed)
        own = [
            [row for row in rows if row.prompt % sizes.processes == rank] for rank in range(sizes.processes)
        ]
        found.append(_work(rows, [grouped(each, sizes.budget) for each in own], waits=waits))
    return Work.mean(found)


def _drawn(sizes: Sizes, assume: Assumptions, prompts: int, seed: int) -> list[SizedRow]:
    """Rows whose lengths have the distribution of :class:`Lengths`, and are alike within a group."""
    generator, normal = np.random.default_rng(seed), NormalDist()
    lengths = Lengths.of(sizes.response, sizes.longest_response)
    alike, rows = math.sqrt(assume.alike), []
    for prompt in range(prompts):
        common = generator.normal()
        for own in generator.normal(size=sizes.group):
            quantile = normal.cdf(alike * common + math.sqrt(1 - assume.alike) * own)
            response = lengths.quantile(quantile)
            taught = sizes.longest_response + response + round(sizes.prompt) if sizes.distils else 0
            rows.append(SizedRow(len(rows), prompt, max(1, round(sizes.prompt)), response, taught))
    return rows


def _work(rows: Sequence[SizedRow], filled: Sequence[Sequence[Sequence[int]]], *, waits: bool) -> Work:
    """Of passes, which are given by the places of their rows: process -> pass -> row."""
    passes = max(len(groups) for groups in filled)
    tokens = np.zeros((len(filled), passes))
    alone = padded = 0
    for rank, groups in enumerate(filled):
        for number, group in enumerate(groups):
            held = [rows[place] for place in group]
            asked = {row.prompt: row.prompt_tokens for row in held}
            tokens[rank, number] = sum(asked.values()) + sum(row.response_tokens for row in held)
            whole = sorted(row.whole for row in held)
            alone += sum(length**2 for length in whole)
            blocks = [whole[part] for part in similar_lengths(whole)]
            padded += sum(len(block) * block[-1] ** 2 for block in blocks)
    mean = float(tokens.sum() / len(filled))
    longest = tokens.max(axis=0) if waits else tokens.sum(axis=1).max(keepdims=True)
    without = (tokens == 0) * tokens.max(axis=0) if waits else np.zeros(1)
    return Work(
        passes=passes,
        tokens=mean,
        slowest=float(longest.sum()) / mean,
        idle=float(without.sum()) / len(filled) / mean,
        padded=padded / alone,
    )
