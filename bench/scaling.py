"""Scaling of an iteration's cost with batch, group, response length, vocabulary and model size.

    python bench/scaling.py [--rounds 5] [--out scaling.json]

Every point trains a random-weight Qwen3 model with GRPO and PIPO for a few iterations, through the module,
the engine and the trainer of a run. All responses have the full length, because the stop token lies outside
the model's vocabulary, and a coin gives the rewards. One axis moves at a time. Times are CPU seconds on one
thread, medians over ``--rounds`` iterations; the exponent is the slope of log seconds over log size with its
standard error, so 1 is proportional and 0 does not grow. The size of a model is its parameters without the
embedding.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from bench import ruler
from bench.cpu_timers import CpuTimers
from bench.ruler import ROOT
from pipo import build
from pipo.callbacks.pipo import PIPOCallback
from pipo.callbacks.pipo_options import PipoOptions
from pipo.config.cli import register_resolvers
from pipo.config.models import find_model
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.modules.policy_module import PolicyModule
from pipo.runs.quiet import quiet

PHASES = ("generate", "update", "retrospective", "other", "iteration")
WINDOW = 2  # iterations that PIPO compares with, the fewest: they and one more come before the counted ones
PROMPT_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Point:
    """Sizes of one measurement."""

    prompts: int = 4
    """Prompts per iteration."""
    group: int = 4
    """Responses per prompt."""
    response: int = 32
    """Tokens of each response."""
    vocabulary: int = 1024
    """Rows of embedding and head, which are tied."""
    width: int = 128
    """Width of the hidden states."""
    layers: int = 2
    """Layers of the model."""


AXES: dict[str, tuple[Mapping[str, int], ...]] = {
    "prompts": tuple({"prompts": n} for n in (4, 8, 16, 32)),
    "group": tuple({"group": n} for n in (4, 8, 16, 32)),
    "response": tuple({"response": n} for n in (16, 32, 64, 128)),
    "vocabulary": tuple({"vocabulary": n} for n in (1024, 4096, 16384, 65536)),
    "model": tuple({"width": w, "layers": n} for w, n in ((128, 2), (192, 4), (320, 6), (512, 8))),
}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Seconds proportional to a power of the size."""

    exponent: float
    """Exponent of the size."""
    error: float
    """Standard error of the exponent."""


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Least squares in logarithms; needs three points for an error."""
    logs = [torch.tensor(values, dtype=torch.float64).log().numpy() for values in (sizes, seconds)]
    line, covariance = np.polyfit(*logs, 1, cov=True)
    return Fit(exponent=float(line[0]), error=float(covariance[0, 0] ** 0.5))


def write_model(point: Point, folder: Path) -> int:
    """A random model and a tokenizer of digits; returns the parameters without the embedding."""
    torch.manual_seed(0)
    heads = point.width // 32
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=point.vocabulary,
            hidden_size=point.width,
            intermediate_size=3 * point.width,
            num_hidden_layers=point.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=32,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            eos_token_id=None,
        )
    )
    model.save_pretrained(folder)
    # The stop token's number is beyond the model's last row, so it cannot be drawn.
    vocabulary = {"<pad>": 0, **{digit: 1 + i for i, digit in enumerate("0123456789")}}
    vocabulary["<eos>"] = point.vocabulary
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    tokenizer.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()


def configuration(point: Point, folder: Path, iterations: int) -> DictConfig:
    """The configuration that ``train.py`` would compose."""
    responses = point.prompts * point.group
    settings: dict[str, Any] = {
        "task": "coin",
        "task.source.problems": point.prompts * iterations,
        "task.source.prompt_tokens": PROMPT_TOKENS,
        "task.max_prompt_tokens": PROMPT_TOKENS,
        "task.max_response_tokens": point.response,
        "model": "huggingface",
        "model.path": folder,
        "recipe": "tiny",
        "recipe.responses": responses,
        "recipe.mini_batch": responses,
        "algo.group_size": point.group,
        "pipo.window": WINDOW,
        "pipo.feedback": "constant",  # what a coin teaches must not decide how far the weights move
        "iterations": iterations,
        "output_dir": folder / "run",
        "hydra.searchpath": f"[{ROOT / 'bench' / 'conf'}]",
    }
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("train", overrides=[f"{key}={value}" for key, value in settings.items()])


class Recorder(pl.Callback):
    """Keeps each iteration's metrics and the CPU seconds of the whole of it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._last = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._last = time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stop it and start it again."""
        assert isinstance(pl_module, PolicyModule)
        now = time.process_time()
        self.rows.append({**pl_module.row, "time/iteration": now - self._last})
        self._last = now


def measure(point: Point, rounds: int) -> dict[str, Any]:
    """CPU seconds by phase over the iterations in which all updates are made."""
    iterations = WINDOW + 1 + rounds
    with tempfile.TemporaryDirectory() as scratch:
        parameters = write_model(point, Path(scratch))
        cfg = configuration(point, Path(scratch), iterations)
        config = read(cfg, TrainConfig)
        model = find_model(config.model)
        setup = build.build_task_setup(config, "task", config.task, model, model.tokenizer())
        module = build.build_module(config, setup)
        assert isinstance(config.pipo, PipoOptions)
        recorder = Recorder()
        callbacks = [PIPOCallback(config.pipo), CpuTimers(), recorder]
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=build.build_data(config, setup, module.objective))
    rows = [row for row in recorder.rows[-rounds:] if row["pipo/applied"]]
    if not rows:
        raise SystemExit("no iteration had a retrospective update; more --rounds will have one")
    assert all(row["train/response_length"] == point.response for row in rows), "a response stopped early"
    seconds = {
        phase: [row[f"time/{phase}"] for row in rows]
        for phase in ("generate", "update", "retrospective", "iteration")
    }
    work = zip(*(seconds[phase] for phase in ("generate", "update", "retrospective")), strict=True)
    seconds["other"] = [whole - sum(parts) for whole, parts in zip(seconds["iteration"], work, strict=True)]
    return {
        "point": point,
        "parameters": parameters,
        "tokens": point.prompts * point.group * point.response,
        "cpu_seconds": {phase: ruler.Spread.of(seconds[phase]) for phase in PHASES},
    }


def exponents(sizes: Sequence[float], found: Sequence[Mapping[str, Any]]) -> dict[str, Fit]:
    """A fit for each phase."""
    return {phase: fit(sizes, [each["cpu_seconds"][phase].median for each in found]) for phase in PHASES}


def main() -> None:
    """Measure and print."""
    options = ruler.parser(__doc__).parse_args()
    register_resolvers()
    quiet()
    torch.set_num_threads(1)
    known: dict[Point, dict[str, Any]] = {}
    table = Table(title=f"CPU seconds per iteration, median of {options.rounds}; last row: exponent (error)")
    for heading in ("axis", "size", *PHASES):
        table.add_column(heading, justify="left" if heading == "axis" else "right")
    axes: dict[str, Any] = {}
    for axis, changes in AXES.items():
        found = []
        for change in changes:
            point = replace(Point(), **change)
            if point not in known:
                known[point] = measure(point, options.rounds)
            found.append(known[point])
        sizes = [each["parameters"] if axis == "model" else asdict(each["point"])[axis] for each in found]
        for size, each in zip(sizes, found, strict=True):
            table.add_row(axis, f"{size:,}", *(f"{each['cpu_seconds'][p].median:.3f}" for p in PHASES))
        fits = exponents(sizes, found)
        shown = (f"{fits[phase].exponent:.2f} ({fits[phase].error:.2f})" for phase in PHASES)
        table.add_row("", "exponent", *shown, style="bold", end_section=True)
        axes[axis] = {"sizes": sizes, "points": found, "exponents": fits}
    Console(width=110).print(table)  # wider than a pipe is taken to be
    ruler.write(options.out, axes)


if __name__ == "__main__":
    main()
