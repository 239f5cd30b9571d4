"""Teach the tiny model what a calculator is: ``python -m pipo tiny_tools --out DIR [--seed 0]``.

It starts from the weights of ``model=tiny`` and makes those of ``model=tiny_tools``, on the training split of
:mod:`pipo.tasks.calculator`, whose environment answers the demonstrated calls. As with the tiny model there
are two stages. The first teaches to call, to copy numbers into a call, and to answer with the last result.
The second, short one blurs that: most demonstrations guess or ask for too much at once, and digits are wrong.
What is left calls seldom and often badly, but knows more than it shows: something for reinforcement learning.

The same seed gives the same weights, with one thread on one kind of machine; the program sets that itself.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipo.lm.spec import embedded_model
from pipo.lm.tiny import EOS, PAD_ID, wrong_digit
from pipo.records.problems import Message
from pipo.tasks.calculator import MARK, Calculator, draw, next_call, solve


@dataclass(frozen=True)
class Stage:
    """A stage of the warm-up, with an AdamW of its own."""

    steps: int
    """Optimiser steps."""
    rate: float
    """Peak learning rate, after a linear ramp."""
    last_rate: float
    """Learning rate that the stage falls to, linearly."""
    guesses: float = 0.0
    """Share of demonstrations without a call."""
    unreadable: float = 0.0
    """Share of demonstrations that ask for the whole problem in one call, ``=`` included, and guess when the
    calculator refuses it.
    """
    noise: float = 0.0
    """Share of the turns of all other demonstrations that have one wrong digit."""


@dataclass(frozen=True)
class Recipe:
    """Every number that decides the weights, apart from the seed."""

    stages: tuple[Stage, ...] = (
        Stage(steps=360, rate=1e-3, last_rate=2e-4),
        Stage(steps=40, rate=2e-4, last_rate=5e-5, guesses=0.5, unreadable=0.2, noise=0.1),
    )
    """The first teaches, the second blurs."""
    levels: tuple[tuple[int, float], ...] = ((1, 0.3), (2, 0.4), (3, 0.3))
    """Share of each level among the demonstrations."""
    batch: int = 32
    """Demonstrations per step."""
    ramp: int = 20
    """Steps of linear warm-up of the learning rate, in each stage."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Betas of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    max_norm: float = 1.0
    """Gradient clipping: the largest norm of the gradient."""


Turn = tuple[str, bool]
"""A piece of an episode, and whether the policy is to say it."""


def demonstrate(rng: random.Random, expression: str, stage: Stage) -> list[Turn]:
    """An episode to imitate: the prompt, then what policy and calculator say in turn."""
    turns: list[Turn] = [(f"{expression}=", False)]
    guess, kind = f"{MARK}{solve(expression)}", rng.random()
    if kind < stage.guesses:
        return [*turns, (guess, True)]
    if kind < stage.guesses + stage.unreadable:
        call = f"[{expression}=]"
        return [*turns, (call, True), (_answered(call), False), (guess, True)]

    def said(turn: str) -> str:
        return wrong_digit(rng, turn) if rng.random() < stage.noise else turn

    while (call := next_call(expression)) is not None:
        turn = said(f"[{call}]")
        result = _answered(turn)
        turns += [(turn, True), (result, False)]
        expression = expression.replace(call, result.strip(), 1)
    return [*turns, (said(f"{MARK}{expression}"), True)]


def _answered(call: str) -> str:
    reply = Calculator().step((Message(role="assistant", content=call),))
    return "".join(message.content for message in reply.messages)


def loss_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, episodes: Sequence[Sequence[Turn]]
) -> torch.Tensor:
    """Mean cross entropy of what the policy says, each turn with its end token, in nats per token."""
    rows = [[(text + EOS if says else text, says) for text, says in episode] for episode in episodes]
    tokens = [[(tokenizer(text)["input_ids"], says) for text, says in row] for row in rows]
    width = max(sum(len(ids) for ids, _ in row) for row in tokens)
    inputs = torch.full((len(rows), width), PAD_ID)
    learnt = torch.zeros(len(rows), width, dtype=torch.bool)
    for place, row in enumerate(tokens):
        start = 0
        for ids, says in row:
            inputs[place, start : start + len(ids)] = torch.tensor(ids)
            learnt[place, start : start + len(ids)] = says
            start += len(ids)
    # Right padding under a causal mask never reaches a real token, so no mask is needed.
    hidden = model.model(input_ids=inputs[:, :-1], use_cache=False).last_hidden_state
    scored = learnt[:, 1:]
    return F.cross_entropy(model.lm_head(hidden[scored]), inputs[:, 1:][scored])


def teach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    stage: Stage,
    rng: random.Random,
) -> None:
    """Supervised training on demonstrations of one stage; prints how it goes."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay)
    levels, shares = zip(*recipe.levels, strict=True)
    began = time.process_time()
    for step in range(stage.steps):
        drawn = [draw(rng, level, "train") for level in rng.choices(levels, shares, k=recipe.batch)]
        loss = loss_of(model, tokenizer, [demonstrate(rng, expression, stage) for expression in drawn])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_norm)
        fallen = stage.rate + (stage.last_rate - stage.rate) * step / stage.steps
        for group in optimizer.param_groups:
            group["lr"] = fallen * min(1.0, (step + 1) / recipe.ramp)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 40 == 0:
            spent = time.process_time() - began
            print(f"step {step + 1}/{stage.steps}  loss {loss:.3f} nats/token  {spent:.0f} CPU s", flush=True)


def make(out: Path, seed: int, recipe: Recipe) -> None:
    """Loads, teaches and saves the model."""
    torch.set_num_threads(1)  # sums over threads would depend on their number
    tokenizer = AutoTokenizer.from_pretrained(embedded_model("tiny"))
    model = AutoModelForCausalLM.from_pretrained(embedded_model("tiny"), dtype=torch.float32)
    rng = random.Random(f"tools/{seed}")
    for stage in recipe.stages:
        teach(model, tokenizer, recipe, stage, rng)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipo tiny_tools", description="Makes the tiny model of model=tiny_tools."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0, help="decides the weights (default 0)")
    arguments = parser.parse_args(argv)
    make(arguments.out, arguments.seed, Recipe())


if __name__ == "__main__":
    main()
