"""A task that grades by a coin toss, so that every batch has something to learn from."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pipo.records.problems import Example, Message, Prompt, Reward, Split
from pipo.tasks.base import Task


class CoinTask(Task):
    """Prompts of a given length, rewards of 0 and 1 at random.

    Args:
        problems: how many prompts.
        prompt_tokens: characters, which are tokens, of each.
        seed: of prompts and verdicts.
    """

    name = "coin"
    version = "1"
    template = "coin/1"

    def __init__(self, *, problems: int, prompt_tokens: int, seed: int) -> None:
        self._coin = random.Random(seed)
        texts = ["".join(self._coin.choices("0123456789", k=prompt_tokens)) for _ in range(problems)]
        self._examples = tuple(
            Example(uid=f"coin/{number}", question=text, answer="") for number, text in enumerate(texts)
        )

    def examples(self, split: Split) -> Sequence[Example]:
        """Every prompt is for training."""
        return self._examples if split == "train" else ()

    def render(self, example: Example) -> Prompt:
        """The digits."""
        return Prompt(messages=(Message(role="user", content=example.question),), text=example.question)

    def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        """Heads or tails."""
        return [Reward(score=float(self._coin.random() < 0.5)) for _ in responses]
