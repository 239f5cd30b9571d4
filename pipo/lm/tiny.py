"""Train the tiny model that ``model=tiny`` loads: ``python -m pipo tiny --out DIR [--seed 0]``.

A Qwen3 model of about 1.2 million parameters that reads characters, warmed up on the problems of
:mod:`pipo.tasks.arithmetic`, training split only. The warm-up has two stages. The first teaches the levels
unevenly, with working. The second, short one blurs the policy: many demonstrations jump to the result without
working, and many have a wrong digit. What is left knows more than it shows, as a pretrained model does, so
reinforcement learning has something to improve for a long time.

The same seed gives the same weights, with one thread on one kind of machine; the program sets that itself.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from pipo.tasks.arithmetic import MARK, ArithmeticTask, demonstrate, draw, evaluate, hinted

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
PAD_ID, EOS_ID = 0, 1  # their places in the vocabulary
CHARACTERS = "0123456789+-*=;:#?!.,()/ \nabcdefghijklmnopqrstuvwxyz'\"_<>[]{}"
DIGITS = "0123456789"


@dataclass(frozen=True)
class Recipe:
    """Every number that decides the weights, apart from the seed."""

    hidden: int = 160
    """Width of the hidden states; input and output embeddings are tied."""
    intermediate: int = 480
    """Width of the MLP."""
    layers: int = 4
    """Decoder layers."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key and value heads."""
    head_dim: int = 32
    """Width of a head."""
    positions: int = 512
    """Longest sequence, in tokens."""
    rope_theta: float = 10000.0
    """Base of the rotary position encoding."""
    levels: tuple[tuple[str, float], ...] = (("1", 0.15), ("2", 0.25), ("3", 0.20), ("4", 0.25), ("5", 0.15))
    """Share of each level among the demonstrations."""
    steps: int = 926
    """Optimiser steps of both stages together."""
    batch: int = 64
    """Demonstrations per step."""
    rate: float = 3e-3
    """Peak learning rate of AdamW, in the first stage."""
    ramp: int = 50
    """Steps of linear warm-up of the learning rate."""
    decay_from: int = 520
    """Step from which the learning rate falls linearly."""
    last_rate: float = 1.5e-4
    """Learning rate that the first stage falls to."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Betas of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    max_norm: float = 1.0
    """Gradient clipping: the largest norm of the gradient."""
    blur_from: int = 900
    """Step at which the second stage starts."""
    blur_rate: float = 2e-4
    """Learning rate of the second stage, constant."""
    jumps: tuple[tuple[str, float], ...] = (("1", 0.4), ("2", 0.5), ("3", 0.6), ("4", 0.7), ("5", 0.6))
    """Share of demonstrations without working in the second stage, by level."""
    noise: float = 0.25
    """Share of demonstrations with one wrong digit in the second stage."""
    hints: float = 0.05
    """Share of demonstrations whose prompt carries the correct working, to be used."""
    test_problems: int = 512
    """Held-out problems in the evaluation."""
    samples: int = 2
    """Samples of each held-out problem."""
    max_new: int = 36
    """Longest response in the evaluation, in tokens."""
    eval_rows: int = 512
    """Sequences sampled at once in the evaluation."""


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """One token per character; anything unknown, capital letters included, is ``<unk>``."""
    vocab = {token: index for index, token in enumerate([PAD, EOS, UNK, *CHARACTERS])}
    core = Tokenizer(models.WordLevel(vocab, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        model_max_length=recipe.positions,
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """The model with fresh weights, drawn from torch's global generator."""
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            head_dim=recipe.head_dim,
            max_position_embeddings=recipe.positions,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
            attention_dropout=0.0,
            bos_token_id=None,
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
        )
    )
    model.generation_config.eos_token_id = EOS_ID
    model.generation_config.pad_token_id = PAD_ID
    return model


def wrong_digit(rng: random.Random, text: str) -> str:
    """The text with one of its digits, drawn at random, replaced by another digit."""
    place = rng.choice([index for index, character in enumerate(text) if character in DIGITS])
    other = rng.choice([digit for digit in DIGITS if digit != text[place]])
    return text[:place] + other + text[place + 1 :]


class WarmUp:
    """Supervised training on demonstrations, one optimizer step per :meth:`step`."""

    def __init__(
        self, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.rng = random.Random(f"warm-up/{seed}")
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step: ramp, plateau, linear fall; then the second stage's constant."""
        recipe = self.recipe
        if step >= recipe.blur_from:
            return recipe.blur_rate
        if step < recipe.ramp:
            return recipe.rate * (step + 1) / recipe.ramp
        fallen = max(0.0, (step - recipe.decay_from) / (recipe.blur_from - recipe.decay_from))
        return recipe.rate + (recipe.last_rate - recipe.rate) * fallen

    def demonstration(self, step: int) -> tuple[str, str]:
        """A prompt and the response to imitate at a step."""
        recipe, rng = self.recipe, self.rng
        blurring = step >= recipe.blur_from
        names, shares = zip(*recipe.levels, strict=True)
        level = rng.choices(names, shares)[0]
        expression = draw(rng, level, "train")
        prompt, response = f"{expression}=", demonstrate(expression)
        if rng.random() < recipe.hints:
            return hinted(prompt, response), response
        jumps = dict(recipe.jumps) if blurring else {}
        if rng.random() < jumps.get(level, 0.0):
            response = f"{MARK}{evaluate(expression)}"
        if blurring and rng.random() < recipe.noise:
            response = wrong_digit(rng, response)
        return prompt, response

    def step(self, step: int) -> float:
        """One optimizer step on fresh demonstrations; returns the mean loss per response token, in nats."""
        recipe = self.recipe
        pairs = [self.demonstration(step) for _ in range(recipe.batch)]
        tokens = sum(len(response) + 1 for _, response in pairs)
        total = 0.0
        for part in _by_length(pairs):
            loss = self._loss(part) / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.max_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _loss(self, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
        """Summed cross entropy of the responses, each with its end token."""
        width = max(len(prompt) + len(response) for prompt, response in pairs)
        inputs = torch.full((len(pairs), width), PAD_ID)
        targets = torch.full((len(pairs), width), -1)
        for row, (prompt, response) in enumerate(pairs):
            ids = self.tokenizer(prompt + response)["input_ids"]
            inputs[row, : len(ids)] = torch.tensor(ids)
            wanted = [*ids[len(prompt) :], EOS_ID]
            targets[row, len(prompt) - 1 : len(ids)] = torch.tensor(wanted)
        # Right padding under a causal mask never reaches a real token, so no mask is needed.
        hidden = self.model.model(input_ids=inputs, use_cache=False).last_hidden_state
        scored = targets >= 0
        return F.cross_entropy(self.model.lm_head(hidden[scored]), targets[scored], reduction="sum")


def _by_length(pairs: Sequence[tuple[str, str]], parts: int = 2) -> Iterator[Sequence[tuple[str, str]]]:
    """Shorter and longer rows apart, so that less is spent on padding."""
    ordered = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    for part in range(parts):
        yield ordered[len(ordered) * part // parts : len(ordered) * (part + 1) // parts]


@dataclass(frozen=True)
class Score:
    """What an evaluation found."""

    accuracy: float
    """Mean score of all samples (pass@1 at temperature 1)."""
    by_level: dict[str, float]
    """Level -> the mean score of its samples."""
    tokens: float
    """Mean response length, end token included."""


@torch.inference_mode()
def evaluate_model(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    seed: int,
    *,
    with_hint: bool = False,
) -> Score:
    """Samples held-out problems at temperature 1; ``with_hint`` shows the correct working first."""
    task = ArithmeticTask(
        seed=seed, train_problems=1, test_problems=recipe.test_problems, levels=dict(recipe.levels)
    )
    examples = [example for example in task.examples("test") for _ in range(recipe.samples)]
    torch.manual_seed(seed)
    scores: dict[str, list[float]] = {level: [] for level, _ in recipe.levels}
    tokens = 0
    for start in range(0, len(examples), recipe.eval_rows):
        part = examples[start : start + recipe.eval_rows]
        prompts = [task.render(example).text for example in part]
        if with_hint:
            prompts = [hinted(p, demonstrate(e.question)) for p, e in zip(prompts, part, strict=True)]
        batch = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
        # The method comes from a mixin whose protocol a type checker cannot match.
        out = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            **batch, do_sample=True, top_k=0, max_new_tokens=recipe.max_new
        )
        new = out[:, batch["input_ids"].shape[1] :]
        tokens += int((new != PAD_ID).sum())
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        for example, verdict in zip(part, task.grade(part, texts), strict=True):
            scores[example.level].append(verdict.score)
    flat = [score for level in scores.values() for score in level]
    by_level = {level: sum(values) / max(1, len(values)) for level, values in scores.items()}
    return Score(accuracy=sum(flat) / len(flat), by_level=by_level, tokens=tokens / len(flat))


def make(out: Path, seed: int, recipe: Recipe) -> Score:
    """Builds, warms up, evaluates and saves the model; prints how it goes."""
    torch.set_num_threads(1)  # sums over threads would depend on their number
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(recipe)
    model = build_model(recipe, tokenizer)
    warm_up = WarmUp(model, tokenizer, recipe, seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    began = time.process_time()
    for step in range(recipe.steps):
        loss = warm_up.step(step)
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            spent = time.process_time() - began
            print(
                f"step {step + 1}/{recipe.steps}  loss {loss:.3f} nats/token  {spent:.0f} CPU s", flush=True
            )
    model.eval()
    score = evaluate_model(model, tokenizer, recipe, seed)
    levels = "  ".join(f"{level}: {value:.3f}" for level, value in score.by_level.items())
    print(f"held-out pass@1 at T=1: {score.accuracy:.3f}  ({levels})  {score.tokens:.1f} tokens", flush=True)
    hint = evaluate_model(model, tokenizer, recipe, seed, with_hint=True)
    print(f"the same with the working as a hint: {hint.accuracy:.3f}", flush=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return score


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipo tiny", description="Makes the tiny model of model=tiny."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0, help="decides the weights (default 0)")
    arguments = parser.parse_args(argv)
    make(arguments.out, arguments.seed, Recipe())


if __name__ == "__main__":
    main()
