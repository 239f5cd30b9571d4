"""Errors of ``python -m pipo plan``: memory and time of small runs on the CPU, planned and measured.

    python bench/plan_errors.py [--out plan_errors.json] [--cases wide long ...]

Each case trains a random-weight Qwen3 model on ``bench/coin.py`` for a few iterations in a program of its
own, in one process or two, and compares with the plan of the same settings: the largest resident memory of
each phase above that before the model was loaded, and CPU seconds of the first process. Every response has
the full length. The plan's machine is this one: its rates of products and of memory are measured first; what
it reaches of them in an update (``train_share``) and what a decoding step takes besides (``layer_s``) are
those of the first case; and what a run takes of memory beside tensors (``context_gib``) is that of a run on a
model of next to nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by its path

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from bench import ruler
from bench.ruler import ROOT
from bench.scaling import PROMPT_TOKENS, WINDOW, Point, write_model
from pipo import build
from pipo.callbacks.pipo import PIPOCallback
from pipo.callbacks.pipo_options import PipoOptions
from pipo.config.cli import register_resolvers
from pipo.config.models import find_model
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.distributed.metrics import IterationMetrics
from pipo.distributed.processes import is_first
from pipo.distributed.strategies import build_strategy
from pipo.lm.policy import load_tokenizer
from pipo.modules.policy_module import PolicyModule
from pipo.plan.options import Gpu, Machine, assumptions
from pipo.plan.plan import Plan, plan
from pipo.runs.quiet import quiet

# Phase of the plan -> timer of the module.
PHASES = {
    "sampling": "generate",
    "scoring": "annotate",
    "look-back": "look_back",
    "retrospective update": "retrospective",
    "update": "update",
}
ITERATIONS = WINDOW + 1  # the last one has everything in it, and AdamW's moments are there
# Nothing that a CPU has not: no driver, no engine; decoding steps are as long as their products.
NO_GPU = (
    *(f"{name}=0" for name in ("fragments", "step_s")),
    *(f"{name}=1" for name in ("memory_share", "stream_share", "prompt_share", "response_share")),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run to plan and to measure."""

    point: Point
    """Sizes."""
    settings: tuple[str, ...] = ()
    """More of its configuration."""
    processes: int = 1
    """On this machine."""


def budget(response: int) -> str:
    """A micro-batch of one group, of which each process has two.

    Groups of eight hardly ever have equal rewards, whose rows would be left out of the update.
    """
    return f"strategy.tokens_per_micro_batch={PROMPT_TOKENS + 8 * response}"


# A model of next to nothing: what a run takes of memory beside its tensors.
EMPTY = Point(prompts=2, group=8, response=8, vocabulary=64, width=64, layers=1)
WIDE = Point(prompts=2, group=8, response=48, vocabulary=8192, width=768, layers=6)
LONG = Point(prompts=2, group=8, response=200, vocabulary=4096, width=256, layers=6)
TABLE = Point(prompts=2, group=8, response=32, vocabulary=131072, width=128, layers=2)
LORA = "model.lora.rank=8", "improvement=device"
FSDP = "strategy=fsdp"
CASES = {
    "empty": Case(point=EMPTY, settings=(budget(8), "improvement=device")),
    "two, empty": Case(point=replace(EMPTY, prompts=4), settings=(budget(8), FSDP), processes=2),
    "wide": Case(point=WIDE, settings=(budget(48), "improvement=device", "algo.objective.kl_coef=0.001")),
    "long": Case(point=LONG, settings=(budget(200),)),
    "vocabulary": Case(point=TABLE, settings=(budget(32),)),
    "checkpointing": Case(point=LONG, settings=(budget(200), "model.gradient_checkpointing=true")),
    "adapters": Case(point=WIDE, settings=(budget(48), *LORA)),
    "two, shards": Case(point=replace(WIDE, prompts=4), settings=(budget(48), FSDP), processes=2),
    "two, each exchanged": Case(
        point=replace(WIDE, prompts=4),
        settings=(budget(48), FSDP, "strategy.sharding.gradient_exchange=micro_batch"),
        processes=2,
    ),
    "two, whole weights": Case(
        point=replace(WIDE, prompts=4), settings=(budget(48), "strategy=ddp"), processes=2
    ),
}


def settings(case: Case, folder: Path) -> list[str]:
    """What ``train.py`` and the plan are given."""
    point = case.point
    responses = point.prompts * point.group
    return [
        "task=coin",
        f"task.source.problems={point.prompts * ITERATIONS}",
        f"task.source.prompt_tokens={PROMPT_TOKENS}",
        f"task.max_prompt_tokens={PROMPT_TOKENS}",
        f"task.max_response_tokens={point.response}",
        "model=huggingface",
        f"model.path={folder}",
        "recipe=tiny",
        f"recipe.responses={responses}",
        f"recipe.mini_batch={responses}",
        f"algo.group_size={point.group}",
        f"pipo.window={WINDOW}",
        "pipo.feedback=constant",
        f"iterations={ITERATIONS}",
        f"output_dir={folder / 'run'}",
        f"hydra.searchpath=[{ROOT / 'bench' / 'conf'}]",
        *case.settings,
    ]


class PeakMetrics(IterationMetrics):
    """The module's metrics; keeps peak memory and CPU seconds of each phase."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, list[float]] = {}
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """A phase."""
        Path("/proc/self/clear_refs").write_text("5")  # the largest so far is forgotten
        start = time.process_time()
        with super().timer(name):
            yield
        self.seconds.setdefault(name, []).append(time.process_time() - start)
        self.peaks.setdefault(name, []).append(ruler.peak_memory())


class Peaks(pl.Callback):
    """Measures a run and writes what it found; in the first process."""

    def __init__(self, path: Path) -> None:
        self.path, self.metrics, self.before = path, PeakMetrics(), 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Everything but the model is there."""
        torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # the library's own memory, taken at its first use
        Path("/proc/self/clear_refs").write_text("5")
        self.before = ruler.peak_memory()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From the first iteration on."""
        assert isinstance(pl_module, PolicyModule)
        pl_module.metrics = self.metrics

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Of the last iteration."""
        if is_first():
            peaks = {name: found[-1] - self.before for name, found in self.metrics.peaks.items()}
            seconds = {name: found[-1] for name, found in self.metrics.seconds.items()}
            self.path.write_text(json.dumps({"gib": peaks, "seconds": seconds}), encoding="utf-8")


def measure(name: str, folder: Path) -> None:
    """Train a case; every process of it comes here."""
    case = CASES[name]
    more = ["trainer.accelerator=cpu", f"trainer.devices={case.processes}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        config = read(compose("train", overrides=[*settings(case, folder), *more]), TrainConfig)
    model = find_model(config.model)
    setup = build.build_task_setup(config, "task", config.task, model, load_tokenizer(model.path))
    module = build.build_module(config, setup)
    assert isinstance(config.pipo, PipoOptions)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=case.processes,
        strategy=build_strategy(
            config.trainer,
            has_critic=False,
            cpu_offload=False,
            timeout_s=config.strategy.timeout_s,
        ),
        max_epochs=1,
        callbacks=[PIPOCallback(config.pipo), Peaks(folder / "measured.json")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=build.build_data(config, setup, module.objective))


def this_machine(processes: int) -> Machine:
    """Rates of one core: the best of a few products and of a few copies, by CPU seconds."""
    a = torch.randn(1024, 1024)
    products = 2 * 1024**3 / min(ruler.cpu_seconds(lambda: a @ a) for _ in range(8))
    half = a.bfloat16()
    in_bfloat16 = 2 * 1024**3 / min(ruler.cpu_seconds(lambda: half @ half) for _ in range(8))
    b, c = torch.ones(2**26), torch.zeros(2**26)
    copies = 2 * 4 * 2**26 / min(ruler.cpu_seconds(lambda: c.copy_(b)) for _ in range(4))
    gpu = Gpu(
        memory_gib=8.0,
        bfloat16_tflops=in_bfloat16 / 1e12,
        float32_tflops=products / 1e12,
        memory_gb_s=copies / 1e9,
        link_gb_s=copies / 1e9,
    )
    return Machine(name="this machine", count=processes, gpu=gpu, is_gpu=False)


def compared(made: Plan, found: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Phase by phase: planned and measured."""
    seconds = {each.name: each.seconds for each in made.seconds}
    rows = []
    for phase in made.phases:
        timer = PHASES.get(phase.name, "")
        if timer in found["gib"]:
            rows.append(
                {
                    "phase": phase.name,
                    "planned_gib": phase.total / 2**30,
                    "gib": found["gib"][timer],
                    "planned_seconds": seconds[phase.name],
                    "seconds": found["seconds"][timer],
                }
            )
    return rows


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the first case shows of this machine, and the others are planned with."""

    train_share: float
    """Of the rate of large products, in an update."""
    layer_s: float
    """Of a decoding step, for each layer, beside its products."""

    @staticmethod
    def of(case: Case, given: tuple[str, ...], machine: Machine, seconds: Mapping[str, float]) -> Rates:
        """What makes the plan of a case take what the case took."""

        def planned(share: float, phase: str) -> float:
            made = plan(
                given, machine, assumptions([*NO_GPU, "context_gib=0", "layer_s=0", f"train_share={share}"])
            )
            return next(each.seconds for each in made.seconds if each.name == phase)

        whole = planned(1.0, "update")
        products = planned(0.5, "update") - whole
        share = min(1.0, products / (seconds["update"] - (whole - products)))
        beside = seconds["generate"] - planned(share, "sampling")
        return Rates(train_share=share, layer_s=max(0.0, beside) / case.point.response / case.point.layers)


def measured(name: str, folder: Path) -> dict[str, dict[str, float]]:
    """GiB and CPU seconds of a case by timer."""
    write_model(CASES[name].point, folder)
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    # What is freed goes back to the system at once, and hides nothing of what comes later.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    subprocess.run(["env", *(f"{k}={v}" for k, v in environment.items()), *command], check=True)
    found: dict[str, dict[str, float]] = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    return found


@cache
def beside_tensors(processes: int) -> float:
    """GiB that a run takes from the time before its model is loaded, for anything but tensors."""
    with tempfile.TemporaryDirectory() as scratch:
        return max(measured("empty" if processes == 1 else "two, empty", Path(scratch))["gib"].values())


def run(name: str, rates: Rates | None) -> tuple[list[dict[str, Any]], Rates]:
    """Measure and plan a case.

    Args:
        name: of the case.
        rates: None to take them from this case.

    Returns:
        Its rows, and the rates that were used.
    """
    case = CASES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = measured(name, folder)
        machine, given = this_machine(case.processes), tuple(settings(case, folder))
        rates = rates or Rates.of(case, given, machine, found["seconds"])
        numbers = {**asdict(rates), "context_gib": beside_tensors(case.processes)}
        made = plan(given, machine, assumptions([*NO_GPU, *(f"{k}={v}" for k, v in numbers.items())]))
    return compared(made, found), rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES)[2:])
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--measure", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    register_resolvers()
    quiet()
    torch.set_num_threads(1)
    if options.measure:
        measure(options.measure, options.folder)
        return
    results: dict[str, Any] = {}
    rates: Rates | None = None
    for name in options.cases:
        results[name], rates = run(name, rates)
        Console(width=110).print(_table(name, results[name]))
        ruler.write(options.out, results)
    print(f"{rates}, from the first case")


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=name)
    for heading in ("phase", "GiB", "planned", "ratio", "CPU s", "planned", "ratio"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for row in rows:
        cells = [row["phase"]]
        for unit in ("gib", "seconds"):
            measured, planned = row[unit], row[f"planned_{unit}"]
            cells += [f"{measured:.3f}", f"{planned:.3f}", f"{planned / measured:.2f}"]
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    main()
