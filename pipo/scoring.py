"""Evaluate one model on one benchmark, from the configuration to ``results.json``."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from pipo import build
from pipo.config.models import find_model
from pipo.config.reading import composed, read
from pipo.config.saved import saved_config
from pipo.config.tree import BenchmarkConfig, EvalConfig
from pipo.distributed.freed_memory import keep_freed_memory
from pipo.distributed.hardware import default_device
from pipo.errors import ConfigError, RunFailed, RunStopped
from pipo.evaluation import parts as evaluated
from pipo.evaluation.benchmark import Benchmark, NotCovered
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.paper_table import write_tables
from pipo.evaluation.parts import Part
from pipo.evaluation.preview import print_preview
from pipo.evaluation.progress_bar import EvaluationBars
from pipo.evaluation.results import EvaluationResult, ProblemResult
from pipo.evaluation.results_file import RESULTS_FILE, write_results
from pipo.evaluation.runner import evaluate
from pipo.evaluation.samples_file import SAMPLES_FILE, append_samples, recover_samples
from pipo.evaluation.summary_tables import benchmark_table
from pipo.graders.worker_pool import WorkerStartError
from pipo.lm.spec import ModelSpec
from pipo.rollout.engine import RolloutEngine
from pipo.runs import run_folder
from pipo.runs.metric_files import MetricsFileLogger
from pipo.runs.places import resuming
from pipo.runs.quiet import quiet
from pipo.tasks.prompts import reply_encoder, response_decoder

IDENTITY_FILE = "identity.json"


def score(cfg: DictConfig, overrides: Sequence[str], *, command: Sequence[str] | None = None) -> None:
    """Evaluate every part, write results and samples, print a table; or only show prompts.

    Args:
        cfg: the composed configuration.
        overrides: the command line, for ``resume=``.
        command: that does the same, for the record; None for the one that this program was started with.

    Raises:
        ConfigError: when anything the user gave cannot be used; nothing has been generated then.
        RunStopped: when a signal ended the evaluation.
        RunFailed: when a grader cannot start.
    """
    quiet()
    keep_freed_memory()
    config = read(cfg, EvalConfig)
    if config.preview is not None:
        with _opened_parts(config) as (_, _, parts):
            print_preview(parts, config.preview)
        return
    fresh = config.resume is None
    folder = Path(config.output_dir if config.resume is None else config.resume)
    if not fresh:
        cfg = _saved(folder, overrides)
        config = read(cfg, EvalConfig)
    cfg = cfg.copy()
    cfg.output_dir = str(folder)  # the saved configuration names the folder, not the time of day
    config = config.model_copy(update={"output_dir": str(folder)})
    with (
        run_folder.claimed(folder, OmegaConf.to_yaml(cfg)) if fresh else run_folder.held(folder),
        _stoppable(folder),
        run_folder.logging_to(folder, "eval.log"),
    ):
        try:
            _score(config, composed(cfg), folder, command)
        except WorkerStartError as error:
            scored = (folder / SAMPLES_FILE).exists()
            again = f"go on with {resuming(folder, 'eval.py')}" if scored else "nothing has been scored"
            raise RunFailed(f"{error}; {again}") from error


def _saved(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration of an evaluation that can be gone on with."""
    cfg = saved_config(folder, list(overrides))
    if "benchmark" not in cfg:
        raise ConfigError(f"resume={folder}: a training run; go on with {resuming(folder)}")
    if (folder / RESULTS_FILE).exists():
        raise ConfigError(f"resume={folder}: this evaluation is finished; see its {RESULTS_FILE}")
    return cfg


def _score(config: EvalConfig, record: dict[str, Any], folder: Path, command: Sequence[str] | None) -> None:
    """Evaluate into a folder that is ours.

    Args:
        config: of the evaluation.
        record: the same as plain values, for the files and services that show it.
        folder: where the results go.
        command: for the record.
    """
    device = torch.device(default_device() if config.device == "auto" else config.device)
    plan, logger = config.evaluation.plan(), _build_logger(config)
    with _opened_parts(config) as (benchmark, model, parts):
        for part in parts:
            part.setup.check_room(part.problems)
        _check_identity(folder, evaluated.identities(parts, plan))
        done = _recovered(folder, parts, plan)
        policy = model.load()
        make_engine: Callable[..., RolloutEngine] = config.rollout.engine.build()
        engine = make_engine(policy=policy)
        if engine.shares_weights:
            policy.to(device)  # another engine has a copy where it samples; this one only feeds it
        run = run_folder.record_run(folder, command)
        results: dict[str, EvaluationResult] = {}
        with EvaluationBars(Console()) as bars:
            for part in parts:
                bar = bars.part(part.name, len(part.problems.examples), done[part.name])

                def keep(batch: Sequence[ProblemResult], name: str = part.name, bar=bar) -> None:
                    append_samples(folder / SAMPLES_FILE, name, batch)
                    bar(batch)

                results[part.name] = evaluate(
                    engine,
                    part.setup.task,
                    part.problems.examples,
                    part.problems.prompt_ids,
                    response_decoder(part.setup.tokenizer, part.setup.sampling.stop_token_ids),
                    reply_encoder(part.setup.tokenizer),
                    part.setup.sampling,
                    plan,
                    done=done[part.name],
                    on_batch=keep,
                )
        engine.close()
        content = evaluated.content(record, benchmark, model, parts, results, plan, run)
    write_tables(folder, content)
    write_results(folder, content)
    console = Console()
    console.print(benchmark_table(benchmark.name, content))
    console.print(f"results.json, samples.jsonl, table.md and table.tex are in {folder}", highlight=False)
    if logger is not None:
        from pipo.runs.wandb_logger import log_evaluation  # wandb takes a second to import

        log_evaluation(logger, record, content)


@contextmanager
def _opened_parts(config: EvalConfig) -> Iterator[tuple[Benchmark, ModelSpec, list[Part]]]:
    """The benchmark, the model and every part with its problems; what cannot be read is named at once."""
    benchmark = _benchmark(config.benchmark)
    model = find_model(config.model)
    if model.lora is not None and model.checkpoint is None:
        raise ConfigError(
            "model.lora: new adapters do nothing; score a run, a checkpoint or an adapter's folder"
        )
    tokenizer = model.tokenizer()
    parts: list[Part] = []
    errors: list[ConfigError] = []
    with ExitStack() as stack:
        for name, task in config.benchmark.parts.items():
            try:
                setup = build.build_task_setup(config, f"benchmark.parts.{name}", task, model, tokenizer)
                stack.callback(setup.task.close)
                problems = setup.scored(config.evaluation.problems)
            except ConfigError as error:
                errors.append(error)
                continue
            parts.append(Part(name=name, setup=setup, source=task.options, problems=problems))
        reasons = list(dict.fromkeys(map(str, errors)))
        if len(reasons) > 1:
            count = f"{len(errors)} of the {len(benchmark.parts)} parts of {benchmark.name}"
            raise ConfigError(f"{count} cannot be scored:", reasons)
        if reasons:
            raise errors[0]
        yield benchmark, model, parts


def _benchmark(config: BenchmarkConfig) -> Benchmark:
    try:
        return Benchmark(
            name=config.name,
            parts=tuple(config.parts),
            average=config.average,
            weights=config.weights,
            not_covered=tuple(NotCovered(**each.model_dump()) for each in config.not_covered or ()),
        )
    except ValueError as error:
        raise ConfigError(f"benchmark: {error}") from error


def _build_logger(config: EvalConfig) -> WandbLogger | None:
    """The W&B run that the summary goes to, if one is wanted; it starts when something is logged."""
    services = [node for node in config.logger.values() if not node.makes(MetricsFileLogger)]
    others = [node for node in services if not node.makes(WandbLogger)]
    if others or (config.logger and not services):
        raise ConfigError(
            f"{others[0].key if others else 'logger=csv'}: an evaluation has no metrics over time, its "
            "results are in results.json; choose logger=none or logger=wandb"
        )
    return services[0].build(WandbLogger) if services else None


def _check_identity(folder: Path, now: dict[str, dict[str, Any]]) -> None:
    """Note what is scored, and how; an evaluation that goes on must be of the same."""
    path = folder / IDENTITY_FILE
    if not path.exists():
        run_folder.write_json(path, now)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    for part, identity in now.items():
        for key, value in identity.items():
            was = before[part].get(key, "not recorded")
            if was != value:
                raise ConfigError(
                    f"resume={folder}: {part}: {key} was {was} at the beginning and is {value} now; score "
                    "again into another folder"
                )


def _recovered(
    folder: Path, parts: Sequence[Part], plan: EvaluationPlan
) -> Mapping[str, Sequence[ProblemResult]]:
    """What is scored already, if it is still what would be scored."""
    sizes = {part.name: len(part.problems.examples) for part in parts}
    try:
        done = recover_samples(folder / SAMPLES_FILE, sizes, plan.prompts_per_batch)
    except ValueError as error:
        raise ConfigError(f"resume={folder}: {error}") from error
    for part in parts:
        decode = response_decoder(part.setup.tokenizer, part.setup.sampling.stop_token_ids)
        for old in done[part.name]:
            example, prompt = part.problems.examples[old.index], decode(part.problems.prompt_ids[old.index])
            if (old.uid, old.answer, old.prompt) != (example.uid, example.answer, prompt):
                raise ConfigError(
                    f"resume={folder}: {part.name} problem {old.index} ({old.uid}) is not the one that was "
                    "scored: its data or its prompt have changed; score again into another folder"
                )
    return done


@contextmanager
def _stoppable(folder: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the evaluation in good order and say how to go on."""
    received = [signal.SIGINT]

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if ours else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    except KeyboardInterrupt as stop:
        number = received[-1]
        if not (folder / SAMPLES_FILE).exists():
            raise RunStopped(f"{number.name}: stopped before anything was scored", 128 + number) from stop
        raise RunStopped(
            f"{number.name}: stopped, what is scored stays scored; go on with {resuming(folder, 'eval.py')}",
            128 + number,
        ) from stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
