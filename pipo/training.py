"""One run from its configuration to its summary."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from pipo import build, run_folder
from pipo.callbacks.checkpoint import iterations_of
from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.callbacks.interrupt import GracefulStop
from pipo.callbacks.progress import RunProgress
from pipo.errors import ConfigError, RunStopped
from pipo.evaluation.report import before_after_table
from pipo.modules.distributed import world
from pipo.modules.policy_module import PolicyModule
from pipo.plot import plot_curves
from pipo.quiet import quiet
from pipo.run_log import METRICS_FILE, read_metrics
from pipo.tasks.datamodule import PromptDataModule

CallbackType = TypeVar("CallbackType", bound=pl.Callback)


def train(cfg: DictConfig, overrides: list[str]) -> float:
    """Run and summarise; returns held-out pass@1 after training, which sweeps maximise.

    Args:
        cfg: the composed configuration.
        overrides: the command line, for ``resume=``.

    Raises:
        ConfigError: when anything the user gave cannot be used; no training has begun then.
        RunStopped: when a signal ended the run.
    """
    quiet()
    checkpoint = None
    if cfg.resume is not None:
        cfg, checkpoint = run_folder.resumed(Path(str(cfg.resume)), overrides)
    run = build.build_run_config(cfg)
    folder = Path(run.output_dir)
    leader = world()[0] == 0
    if checkpoint is None and leader:
        run_folder.claim(folder)
    bench = build.build_workbench(cfg)
    try:
        module = build.build_module(cfg, run, bench)
        data = build.build_data(cfg, run, bench)
        callbacks = build.build_callbacks(cfg, run, bench, module.objective.distillation)
        if leader:
            run_folder.save_config(folder, cfg)
            run_folder.record_run(folder)
        start = 0 if checkpoint is None else _finished_iterations(checkpoint, run.iterations)
        loggers = build.build_loggers(cfg, run, start)
        _log_config(loggers, cfg)
        trainer = build.build_trainer(cfg, callbacks, loggers)
        _fit(trainer, module, data, checkpoint)
    finally:
        bench.task.close()
    return _finish(run, callbacks)


def _log_config(loggers: list[Logger], cfg: DictConfig) -> None:
    """The composed configuration goes to every service."""
    container = OmegaConf.to_container(cfg, resolve=True)
    for logger in loggers:
        logger.log_hyperparams({"config": container})


def _fit(trainer: pl.Trainer, module: PolicyModule, data: PromptDataModule, checkpoint: Path | None) -> None:
    """Train; a W&B run is closed whatever happens, and says whether it was a success."""
    failed = True
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        failed = False
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=int(failed))


def _finished_iterations(checkpoint: Path, budget: int) -> int:
    """How many iterations a checkpoint has behind it."""
    finished = iterations_of(checkpoint)
    if finished >= budget:
        raise ConfigError(
            f"resume={checkpoint.parent.parent}: its {finished} iterations are finished; "
            f"iterations= above that goes on"
        )
    return finished


def _finish(run: build.RunConfig, callbacks: list[pl.Callback]) -> float:
    """Curves, summary and the table at the end; one process writes them."""
    folder = Path(run.output_dir)
    stop, evaluation = _only(callbacks, GracefulStop), _only(callbacks, HeldOutEvaluation)
    metrics = folder / METRICS_FILE
    if world()[0] == 0 and metrics.exists() and read_metrics(metrics):
        plot_curves(metrics, folder / "curves.png")
    if stop.received is not None:
        raise RunStopped(
            f"{stop.received.name}: stopped and saved; go on with python train.py resume={folder}",
            128 + int(stop.received),
        )
    before, after = evaluation.before, evaluation.after
    assert before is not None
    assert after is not None
    summary = {
        "iterations": run.iterations,
        "seconds": round(_only(callbacks, RunProgress).seconds, 1),
        "before": before,
        "after": after,
    }
    if world()[0] == 0:
        run_folder.write_json(folder / "summary.json", summary)
        console = Console()
        console.print(before_after_table(before, after))
        console.print(_where(folder, summary["seconds"]), highlight=False, soft_wrap=True)
    return float(after["pass@1"])


def _where(folder: Path, seconds: float) -> str:
    """What lies where, and what to type next."""
    lines = [f"{seconds:.0f} s in all; everything is in [bold]{folder}[/bold]"]
    for name, what in (
        ("curves.png", "accuracy, reward, feedback, lengths, time"),
        ("model/", "Hugging Face format; score it with python eval.py model=" + str(folder)),
        ("samples.jsonl", "sampled responses"),
        ("metrics.csv", "every metric of every iteration, also as metrics.jsonl"),
        ("checkpoints/", "go on with python train.py resume=" + str(folder) + " iterations=..."),
    ):
        if (folder / name).exists():
            lines.append(f"  {name:<14} {what}")
    return "\n".join(lines)


def _only(callbacks: list[pl.Callback], kind: type[CallbackType]) -> CallbackType:
    (found,) = [callback for callback in callbacks if isinstance(callback, kind)]
    return found
