"""Balance of rows over processes, by simulation: tokens of the slowest process over the mean.

    python bench/token_balance.py

Lengths of responses are log-normal with a part that the responses to a prompt have in common, cut at the
limit; a filter leaves out the groups whose rewards are all equal. Sizes are those of an optimiser step of the
paper's rows, on 8 processes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipo.functional.token_balance import RowCost, token_shares
from pipo.modules.batching import SizedRow, even_groups, grouped

BUDGET = 18432


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Optimiser steps of one kind."""

    prompts: int = 64
    """Prompts of a step, before any is left out."""
    group_size: int = 8
    """Responses to each."""
    ranks: int = 8
    """Processes."""
    prompt_tokens: float = 130
    """Median length of a prompt."""
    tokens: float = 1000
    """Mean length of a response, before the limit cuts it."""
    limit: int = 4096
    """Longest response."""
    spread: float = 0.7
    """Standard deviation of the logarithm of a response's length; half of its square is its prompt's."""
    trained: float = 0.6
    """Share of groups with unequal rewards."""

    def draw(self, generator: np.random.Generator) -> tuple[list[SizedRow], list[int]]:
        """The rows of a step, and the process that sampled each: prompts are dealt to them in turn."""
        size = (self.prompts, self.group_size)
        sigma = self.spread / np.sqrt(2)
        logs = generator.normal(0, sigma, size) + generator.normal(0, sigma, (self.prompts, 1))
        lengths = np.clip(self.tokens * np.exp(logs - self.spread**2 / 2), 10, self.limit).astype(int)
        asked = np.clip(generator.lognormal(np.log(self.prompt_tokens), 0.5, self.prompts), 20, 2048)
        kept = np.flatnonzero(generator.random(self.prompts) < self.trained)
        rows = [(int(prompt), int(length)) for prompt in kept for length in lengths[prompt]]
        sized = [
            SizedRow(
                place=place,
                prompt=prompt,
                prompt_tokens=int(asked[prompt]),
                response_tokens=length,
                teacher_tokens=0,
            )
            for place, (prompt, length) in enumerate(rows)
        ]
        return sized, [prompt % self.ranks for prompt, _ in rows]


CASES = {
    "mathematics": Steps(),
    "mathematics, every group trained on": Steps(trained=1.0),
    "mathematics, few groups, very different lengths": Steps(trained=0.3, spread=1.0),
    "code, prompts of 600 tokens": Steps(prompt_tokens=600),
    "tool use, prompts of 1,000 tokens and responses of 150": Steps(
        prompt_tokens=1000, tokens=150, limit=1024
    ),
    "PPO, one response per prompt": Steps(prompts=512, group_size=1, trained=1.0),
    "mathematics, 64 processes": Steps(ranks=64, trained=0.8),
}


@dataclass(frozen=True, kw_only=True)
class Imbalance:
    """How uneven one step is; 1 is even."""

    at_home: float
    """Tokens of the largest process over the mean, each row where it was sampled."""
    balanced: float
    """The same with rows exchanged."""
    passes: float
    """The same where processes wait for each other after every forward pass."""
    tokens: float
    """Tokens of all processes over those without exchange: prompts that are read on more than one."""


def imbalance(steps: Steps, seed: int) -> Imbalance:
    """Of one step."""
    rows, homes = steps.draw(np.random.default_rng(seed))
    costs = [row.cost for row in rows]
    at_home = [[i for i, home in enumerate(homes) if home == rank] for rank in range(steps.ranks)]
    shares = token_shares(costs, steps.ranks)
    before, after = ([tokens(costs, share) for share in each] for each in (at_home, shares))
    held = [[rows[i] for i in share] for share in shares]
    filled = [grouped(each, BUDGET) for each in held]
    passes = max(len(groups) for groups in filled)
    slowest = [0] * passes
    for own, groups in zip(held, filled, strict=True):
        for number, group in enumerate(even_groups(own, groups, BUDGET, passes)):
            slowest[number] = max(slowest[number], tokens(costs, group))
    mean = statistics.mean(after)
    return Imbalance(
        at_home=max(before) / statistics.mean(before),
        balanced=max(after) / mean,
        passes=sum(slowest) / mean,
        tokens=sum(after) / sum(before),
    )


def tokens(costs: Sequence[RowCost], share: Sequence[int]) -> int:
    """Tokens that one process reads for its rows."""
    prompts = {costs[i].prompt: costs[i].prompt_tokens for i in share}
    return sum(prompts.values()) + sum(costs[i].tokens for i in share)


def main() -> None:
    """Print a table: the mean of 50 steps, and the worst of them."""
    print("| an optimiser step of | at home | exchanged | worst of 50 | pass by pass | tokens read |")
    print("|---|---|---|---|---|---|")
    for name, steps in CASES.items():
        found = [imbalance(steps, seed) for seed in range(50)]
        mean = {
            key: statistics.mean(getattr(each, key) for each in found)
            for key in ("at_home", "balanced", "passes", "tokens")
        }
        print(
            f"| {name} | {mean['at_home']:.2f} | {mean['balanced']:.3f} | "
            f"{max(each.balanced for each in found):.3f} | {mean['passes']:.3f} | {mean['tokens']:.3f} |"
        )


if __name__ == "__main__":
    main()
