"""One run from its configuration to its summary."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from pipo import build, run_folder
from pipo.callbacks.checkpoint import finished_checkpoints, iterations_of
from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.callbacks.interrupt import GracefulStop
from pipo.callbacks.progress import RunProgress
from pipo.errors import ConfigError, RunStopped
from pipo.evaluation.report import before_after_table
from pipo.modules.policy import load_weights, read_checkpoint
from pipo.modules.policy_module import PolicyModule
from pipo.plot import plot_curves
from pipo.quiet import quiet
from pipo.rollout.engine import EngineFailed
from pipo.run_log import METRICS_FILE
from pipo.tasks.datamodule import PromptDataModule

CallbackType = TypeVar("CallbackType", bound=pl.Callback)


def train(cfg: DictConfig, overrides: list[str]) -> float:
    """Run and summarise; returns held-out pass@1 after training, which sweeps maximise.

    Args:
        cfg: the composed configuration.
        overrides: the command line, for ``resume=``.

    Raises:
        ConfigError: when anything the user gave cannot be used; no training has begun then.
        RunStopped: when a signal or a broken engine ended the run.
    """
    quiet()
    checkpoint = None
    if cfg.resume is not None:
        cfg, checkpoint = run_folder.resumed(Path(str(cfg.resume)), overrides)
    run = build.build_run_config(cfg)
    cfg = cfg.copy()
    cfg.output_dir = run.output_dir  # the saved configuration names the folder, not the time of day
    folder, fresh = Path(run.output_dir), checkpoint is None
    with run_folder.claimed(folder, cfg) if fresh and _leads() else nullcontext():
        if _leads():
            run_folder.open_log(folder)
        callbacks = _run(cfg, run, checkpoint)
    return _finish(cfg, run, callbacks)


def _leads() -> bool:
    """Whether this is the first process; asked before there is a process group."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _run(cfg: DictConfig, run: build.RunConfig, checkpoint: Path | None) -> list[pl.Callback]:
    """Build everything and train; returns the callbacks, which know what came out."""
    bench = build.build_workbench(cfg)
    start = 0 if checkpoint is None else iterations_of(checkpoint)
    try:
        module = build.build_module(cfg, run, bench)
        data = build.build_data(cfg, run, bench)
        callbacks = build.build_callbacks(cfg, run, bench, module.objective.distillation, start)
        if start >= run.iterations:
            assert checkpoint is not None
            _score_finished(run, module, _only(callbacks, HeldOutEvaluation), checkpoint)
            return callbacks
        loggers = build.build_loggers(cfg, run, start)
        trainer = build.build_trainer(cfg, callbacks, loggers, module.objective)
        if _leads():
            run_folder.record_run(Path(run.output_dir))
        _fit(trainer, module, data, cfg, checkpoint)
    finally:
        bench.task.close()
    return callbacks


def _score_finished(
    run: build.RunConfig, module: PolicyModule, evaluation: HeldOutEvaluation, checkpoint: Path
) -> None:
    """The last evaluation of a run that was stopped after its last iteration."""
    folder, finished = Path(run.output_dir), iterations_of(checkpoint)
    if finished > run.iterations or (folder / "summary.json").exists():
        raise ConfigError(
            f"resume={folder}: its {finished} iterations are finished; iterations= above that goes on"
        )
    module.configure_model()
    state = read_checkpoint(checkpoint)
    load_weights(module.policy, state)
    evaluation.load_state_dict(state["callbacks"][evaluation.state_key])
    evaluation.measure_after(module)


def _log_config(loggers: list[Logger], cfg: DictConfig) -> None:
    """The composed configuration goes to every service."""
    container = OmegaConf.to_container(cfg, resolve=True)
    for logger in loggers:
        logger.log_hyperparams({"config": container})


def _fit(
    trainer: pl.Trainer,
    module: PolicyModule,
    data: PromptDataModule,
    cfg: DictConfig,
    checkpoint: Path | None,
) -> None:
    """Train; a W&B run is closed whatever happens, and says whether it was a success."""
    failed = True
    try:
        _log_config(trainer.loggers, cfg)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        failed = False
    except EngineFailed as error:
        raise EngineFailed(f"{error}; {_going_on(Path(str(cfg.output_dir)))}") from error
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=int(failed))


def _going_on(folder: Path) -> str:
    """What a run that broke has left to go on from."""
    checkpoints = finished_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return "no checkpoint had been written yet"
    done = iterations_of(checkpoints[-1])
    return f"saved up to iteration {done}, go on with python train.py resume={folder}"


def _finish(cfg: DictConfig, run: build.RunConfig, callbacks: list[pl.Callback]) -> float:
    """Summary, curves and the table at the end; one process writes them."""
    folder = Path(run.output_dir)
    stop, evaluation = _only(callbacks, GracefulStop), _only(callbacks, HeldOutEvaluation)
    before, after = evaluation.before, evaluation.after
    leader, seconds = _leads(), _only(callbacks, RunProgress).seconds
    if leader and before is not None and after is not None:
        summary = {
            "iterations": run.iterations,
            "seconds": round(seconds, 1),
            "before": before,
            "after": after,
        }
        run_folder.write_json(folder / "summary.json", summary)
    metrics = folder / METRICS_FILE
    if leader and metrics.exists() and metrics.stat().st_size:
        plot_curves(metrics, folder / "curves.png")
    if after is None:
        raise RunStopped(
            f"{stop.reason}: stopped and saved; go on with python train.py resume={folder}", stop.exit_code
        )
    assert before is not None
    if leader:
        console = Console()
        console.print(before_after_table(before, after))
        console.print(_where(folder, cfg.task.name, seconds), highlight=False, soft_wrap=True)
    return float(after["pass@1"])


def _where(folder: Path, task: str, seconds: float) -> str:
    """What lies where, and what to type next."""
    lines = [f"{seconds:.0f} s in all; everything is in [bold]{folder}[/bold]"]
    for name, what in (
        ("curves.png", "accuracy, reward, feedback, lengths, time"),
        ("model/", f"Hugging Face format; score it with python eval.py model={folder} benchmark={task}"),
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
