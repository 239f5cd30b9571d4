"""Train one model: a run from its configuration to its summary."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import lightning.pytorch as pl
import yaml
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from pipo import build
from pipo.callbacks.ending import KEY, LIMITS, RunEnd
from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.callbacks.interrupt import REQUEUE, GracefulStop, requeue
from pipo.callbacks.progress_bar import RunProgress
from pipo.callbacks.results import RunResults
from pipo.config.reading import composed, read
from pipo.config.saved import save_config, saved_config
from pipo.config.single_benchmarks import single_benchmarks
from pipo.config.trainer_options import shortened
from pipo.config.tree import TaskConfig, TrainConfig
from pipo.distributed.forks import can_fork, fork_others, start_others
from pipo.distributed.freed_memory import keep_freed_memory
from pipo.distributed.processes import is_first, telling_folder
from pipo.errors import ConfigError, Diverged, RunFailed, RunStopped
from pipo.evaluation.summary_tables import before_after_table
from pipo.graders.worker_pool import WorkerStartError
from pipo.home import CONF
from pipo.rollout.engine import EngineFailed
from pipo.run_parts import parts_of
from pipo.runs import run_folder
from pipo.runs.checkpoints import STATE, finished_checkpoints, iterations_of
from pipo.runs.files import replace_text
from pipo.runs.places import command, own_configuration, resuming
from pipo.runs.profile import PROFILE_FILE, profile_head
from pipo.runs.push import push, pushing
from pipo.runs.quiet import quiet
from pipo.runs.run_log import DIVERGED_FILE
from pipo.runs.run_summary import CURVES_FILE, MODEL_FOLDER, REPORT_FILE, missing_products

log = logging.getLogger(__name__)
_LIMIT_KEYS = tuple(f"{KEY}.{name}" for name in LIMITS)
CallbackType = TypeVar("CallbackType", bound=pl.Callback)


def train(
    cfg: DictConfig,
    overrides: list[str],
    *,
    callbacks: Mapping[str, pl.Callback] = MappingProxyType({}),
    command: Sequence[str] | None = None,
    forks: bool = False,
) -> float:
    """Run and summarise; returns held-out pass@1 after training, which sweeps maximise.

    Args:
        cfg: the composed configuration.
        overrides: the command line, for ``resume=``.
        callbacks: beside those of the configuration, by the names that messages call them.
        command: that does the same, for the record; None for the one that this program was started with.
        forks: whether this is a program that may be forked into several processes.

    Raises:
        ConfigError: when anything the user gave cannot be used; no training has begun then.
        RunFailed: when the run cannot go on for a reason outside of the program.
        RunStopped: when a signal ended the run.
    """
    quiet()
    keep_freed_memory()
    config = read(cfg, TrainConfig)
    fresh = config.resume is None
    if config.resume is not None:
        cfg = saved_config(Path(config.resume), overrides, "iterations", *_LIMIT_KEYS)
        if "iterations" not in cfg:
            place = cfg.output_dir
            raise ConfigError(f"resume={place}: an evaluation; go on with {resuming(place, 'eval.py')}")
        config = read(cfg, TrainConfig)
    cfg = shortened(cfg, config)
    config = read(cfg, TrainConfig)
    cfg.output_dir = config.output_dir  # the saved configuration names the folder, not the time of day
    folder = Path(config.output_dir)
    if forks and can_fork(config.trainer):
        fork_others(config.trainer.per_node)
    with (
        telling_folder(str(folder)),
        run_folder.storage_errors(folder),
        _holding(folder, OmegaConf.to_yaml(cfg), fresh=fresh),
        run_folder.logging_to(folder, run_folder.LOG_FILE) if is_first() else nullcontext(),
    ):
        checkpoint = None
        if not fresh:
            checkpoint = run_folder.newest_checkpoint(folder, leads=is_first())
            if _ended_before(config, checkpoint):
                _drop_limits(cfg, overrides)
                config = read(cfg, TrainConfig)
            if is_first():
                save_config(folder, cfg)
        return _finish(config, _run(config, composed(cfg), checkpoint, callbacks, command))


def _holding(folder: Path, config: str, *, fresh: bool) -> AbstractContextManager[None]:
    """The first process keeps others out of the run folder."""
    if not is_first():
        return nullcontext()
    return run_folder.claimed(folder, config) if fresh else run_folder.held(folder)


def _ended_before(config: TrainConfig, checkpoint: Path | None) -> bool:
    """Whether the run had come to an end, which was a limit's then; its result is not what is wanted now.

    Raises:
        ConfigError: the run is whole; what came after the last iteration may be missing, and is made then.
    """
    if checkpoint is None:
        return False
    folder, finished = Path(config.output_dir), iterations_of(checkpoint)
    missing = missing_products(folder, finished)
    if finished > config.iterations or (finished == config.iterations and missing == []):
        raise ConfigError(
            f"resume={folder}: its {finished} iterations are finished; iterations= above that goes on"
        )
    return missing is not None


def _drop_limits(cfg: DictConfig, overrides: list[str]) -> None:
    """A limit that has ended the run has had its effect; going on means beyond it."""
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    for name, key in zip(LIMITS, _LIMIT_KEYS, strict=True):
        if key not in given and cfg.trainer.pop(name, None) is not None:
            log.warning("%s ended the run before, or might have; it goes on without", key)


def _run(
    config: TrainConfig,
    record: dict[str, Any],
    checkpoint: Path | None,
    own: Mapping[str, pl.Callback],
    command: Sequence[str] | None,
) -> list[pl.Callback]:
    """Build everything and train; returns the callbacks, which know what came out.

    Args:
        config: of the run.
        record: the same as plain values, for the services that show it.
        checkpoint: to go on from; None for a new run.
        own: callbacks beside those of the configuration.
        command: for the record.
    """
    folder = Path(config.output_dir)
    start = 0 if checkpoint is None else iterations_of(checkpoint)
    try:
        with parts_of(config) as parts:
            objective = parts.module.objective
            callbacks = build.build_callbacks(config, parts.setup, objective.distillation, start, own)
            loggers = build.build_loggers(config, start)
            start_others()
            trainer = build.build_trainer(config, callbacks, loggers, objective)
            if is_first():
                task = parts.setup.task
                run_folder.record_run(folder, command, f"{task.name} {task.version}")
                (folder / DIVERGED_FILE).unlink(missing_ok=True)
            for logger in trainer.loggers:
                logger.log_hyperparams({"config": record})
            trainer.fit(parts.module, datamodule=parts.data, ckpt_path=_state_of(checkpoint))
    except (WorkerStartError, EngineFailed) as error:
        log.info("the run ended here", exc_info=error)  # the trace, for whoever has to find out why
        raise RunFailed(f"{error}; {_left(folder)}") from error
    except Diverged as error:
        if is_first():
            replace_text(folder / DIVERGED_FILE, f"{error}\n")
        raise
    return callbacks


def _left(folder: Path) -> str:
    """What a run that broke in the middle of an iteration has left to go on from."""
    checkpoints = finished_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return "no checkpoint had been written yet, so start the run again"
    done = iterations_of(checkpoints[-1])
    return f"saved up to iteration {done}, go on with {resuming(folder)}"


def _state_of(checkpoint: Path | None) -> Path | None:
    """What Lightning reads of a checkpoint."""
    return None if checkpoint is None else checkpoint / STATE


def _finish(config: TrainConfig, callbacks: list[pl.Callback]) -> float:
    """The table at the end, and a word on whatever is missing."""
    folder, leader = Path(config.output_dir), is_first()
    stop, evaluation = _only(callbacks, GracefulStop), _only(callbacks, HeldOutEvaluation)
    before, after, end = evaluation.before, evaluation.after, _only(callbacks, RunEnd)
    if end.iterations is None:
        raise end.nothing_done()
    problems = _only(callbacks, RunResults).problems
    what = "; ".join(f"{name} cannot be written ({problem})" for name, problem in problems.items())
    if after is None:
        raise _stopped(stop, folder, what)
    assert before is not None
    if leader:
        seconds = _only(callbacks, RunProgress).seconds
        console = Console()
        console.print(before_after_table(before, after))
        if end.cause is not None:
            said = f"ended by {end.cause} after {end.iterations} of {config.iterations} iterations"
            console.print(said, highlight=False, markup=False, soft_wrap=True)
        if (profile := folder / PROFILE_FILE).exists():
            said = "\n".join(profile_head(profile))
            console.print(said, highlight=False, markup=False, soft_wrap=True)
        console.print(
            where(folder, config, end.iterations, seconds), highlight=False, markup=False, soft_wrap=True
        )
    if problems:
        raise RunFailed(
            f"{folder}: all {end.iterations} iterations are made and saved, but {what}. Mend that, then "
            f"{resuming(folder)} makes what is missing"
        )
    if leader and config.push_to_hub is not None:
        _push(folder, config.push_to_hub)
    return float(after["pass@1"])


def _push(folder: Path, repository: str) -> None:
    """The model to the hub; what is in the way costs the run nothing."""
    try:
        print(f"pushed to {push(folder / MODEL_FOLDER, repository)}")
    except ConfigError as error:
        log.warning("not pushed: %s. The run is whole; to push it: %s", error, pushing(folder, repository))


def _stopped(stop: GracefulStop, folder: Path, problems: str) -> RunStopped:
    """How a run ends that a signal ended; SLURM is asked to start it again if that was what it meant."""
    assert stop.reason is not None
    again = requeue() if stop.reason == REQUEUE and is_first() else None
    then = f"{again}; " if again is not None else ""
    then = f"{problems}; {then}" if problems else then
    message = f"{stop.reason.name}: stopped and saved; {then}go on with {resuming(folder)}"
    return RunStopped(message, 128 + stop.reason)  # as shells do


def where(folder: Path, config: TrainConfig, done: int, seconds: float) -> str:
    """What lies where, and what to type next."""
    lines = [f"{seconds:.0f} s in all; everything is in {folder}"]
    for name, what in (
        (REPORT_FILE, "what came of it, on one page; open it in a browser"),
        (CURVES_FILE, "accuracy, reward, feedback, lengths, time"),
        ("model/", "the trained model in Hugging Face format, with its card"),
        ("adapter/", "its adapters alone, in PEFT's format"),
        ("samples.jsonl", "sampled responses"),
        ("metrics.csv", "every metric of every iteration, also as metrics.jsonl"),
        ("checkpoints/", "everything that going on takes"),
        (PROFILE_FILE, "where the time went, as trainer.profiler saw it"),
    ):
        if (folder / name).exists():
            lines.append(f"  {name:<15} {what}")
    # In lines of their own, which fit 80 columns with a folder of the usual length.
    lines.append("score the model, or go on training:")
    scoring = command("eval.py", *own_configuration(sys.argv), f"model={folder}", *_scored_on(config))
    lines.append(f"  {scoring}")
    lines.append(f"  {command('train.py', f'resume={folder}', f'iterations={2 * done}')}")
    return "\n".join(lines)


def _scored_on(config: TrainConfig) -> list[str]:
    """What makes ``eval.py`` score the run's own held-out problems, with the data that the run had."""
    task, data = config.task, [] if config.data_dir is None else [f"data_dir={config.data_dir}"]
    if "rows" in task.source.node:
        return _rewarded_on(task)
    sources = {"path": task.source.node.get("train"), "test_path": task.source.node.get("test")}
    paths = {
        key: each["path"] for key, each in sources.items() if isinstance(each, dict) and each.get("path")
    }
    alone = task.name in single_benchmarks(CONF)
    if (alone or (CONF / "benchmark" / f"{task.name}.yaml").is_file()) and "test_path" not in paths:
        return [f"benchmark={task.name}", *data]
    files = [] if data else [f"benchmark.parts.{task.name}.{key}={path}" for key, path in paths.items()]
    return [f"{'benchmark' if alone else 'task'}={task.name}", *data, *files]


def _rewarded_on(task: TaskConfig) -> list[str]:
    """The same for prompts and reward functions of the user's own: whatever is not as in the file."""
    rows, grader = task.source.node["rows"], task.source.node["grader"]
    given = {**task.model_dump(exclude={"source"}), **rows, **grader}
    own = yaml.safe_load((CONF / "task" / "prompts.yaml").read_text(encoding="utf-8"))
    keys = [key for key in own if key not in ("defaults", "source") and given[key] != own[key]]
    told = {f"task.{key}": given[key] for key in keys} | {
        "reward": grader["functions"],
        "reward_weights": grader["weights"],
    }
    return ["task=prompts"] + [
        f"{key}=[{','.join(map(str, value))}]" if isinstance(value, list) else f"{key}={value}"
        for key, value in told.items()
        if value is not None
    ]


def _only(callbacks: list[pl.Callback], kind: type[CallbackType]) -> CallbackType:
    (found,) = [callback for callback in callbacks if isinstance(callback, kind)]
    return found
