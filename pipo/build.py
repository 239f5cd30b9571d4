"""From the composed configuration to objects, for ``train.py`` and ``eval.py``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from omegaconf import DictConfig

from pipo.analysis.plotting.curves import CURVES_FILE, write_curves
from pipo.analysis.report.page import REPORT_FILE, write_run_report
from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.callbacks.ending import KEY, RunEnd
from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.callbacks.export import ModelExport
from pipo.callbacks.guard import SkippedStepLog
from pipo.callbacks.held_out import HeldOutProblems
from pipo.callbacks.interrupt import GracefulStop
from pipo.callbacks.iteration_log import IterationLog
from pipo.callbacks.pipo import PIPOCallback, PipoOptions
from pipo.callbacks.probe import Probe
from pipo.callbacks.progress_bar import RunProgress
from pipo.callbacks.random_state import RandomState
from pipo.callbacks.results import RunResults
from pipo.callbacks.samples import SampleLog
from pipo.callbacks.teacher import TeacherAverage
from pipo.config.instantiate import construct, instantiate, read_options
from pipo.config.trainer_options import HARDWARE, trainer_options
from pipo.distributed.processes import is_first
from pipo.distributed.strategies import COMPUTE_DTYPES, Hardware, build_strategy
from pipo.errors import ConfigError
from pipo.evaluation.results import EvaluationPlan
from pipo.functional.importance import ImportanceCorrection
from pipo.lm.sharding import Sharding
from pipo.modules.objectives.base import Distillation, Objective
from pipo.modules.options import BatchConfig, OptimizerConfig
from pipo.modules.policy_module import PolicyModule
from pipo.records.rollouts import Rollouts, TokenIds
from pipo.rollout.collector import CollectionConfig, Collector
from pipo.rollout.datamodule import IterationDataset, PromptDataModule
from pipo.rollout.privileged import teacher_prompts
from pipo.rollout.reward_terms import RewardTerm
from pipo.rollout.task_setup import Problems, Workbench
from pipo.runs.metric_files import MetricsFileLogger
from pipo.runs.run_summary import MODEL_FOLDER
from pipo.tasks.prompts import encode_prompt, response_decoder

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run's own keys.

    Attributes:
        seed: every random number of the run derives from it.
        iterations: budget, in rollouts with their updates.
        output_dir: the run folder.
        group_size: responses per prompt.
        prompts: prompts per iteration over all processes.
    """

    seed: int
    iterations: int
    output_dir: str
    group_size: int
    prompts: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be >= 1, got {self.iterations}")
        if self.group_size < 1:
            raise ValueError(f"algo.group_size must be >= 1, got {self.group_size}")
        if self.prompts < 1:
            raise ValueError(f"algo.prompts must be >= 1, got {self.prompts}")


def build_run_config(cfg: DictConfig) -> RunConfig:
    """The run's own keys, checked."""
    keys = {name: name for name in ("seed", "iterations", "output_dir")}
    return construct(RunConfig, cfg, {**keys, "group_size": "algo.group_size", "prompts": "algo.prompts"})


def build_module(cfg: DictConfig, run: RunConfig, bench: Workbench) -> PolicyModule:
    """The LightningModule; the model itself is loaded later, by the trainer's strategy."""
    if bench.model.dtype != "float32":
        # Ten steps at 1e-6 move 1 % of them: what is added is less than half of their last digit.
        raise ConfigError(
            f"model.dtype={bench.model.dtype}: weights of {bench.model.dtype} are too coarse to train, their "
            "updates are rounded away; use model.dtype=float32, with strategy.compute_dtype=bfloat16 for "
            "products in bfloat16"
        )
    if not bench.sampling.temperature > 0:
        raise ConfigError("rollout.temperature must be above 0 to train: greedy responses are all alike")
    objective = instantiate(cfg, "algo.objective", Objective)
    if run.group_size < objective.min_group_size:
        raise ConfigError(
            f"algo.group_size={run.group_size}: {cfg.algo.name} compares the responses of a group and needs "
            f"at least {objective.min_group_size}"
        )
    collection = construct(
        CollectionConfig,
        cfg,
        {"dynamic_sampling_rounds": "algo.dynamic_sampling_rounds"},
    )
    if collection.dynamic_sampling_rounds and run.group_size < 2:
        raise ConfigError("algo.dynamic_sampling_rounds compares the responses of a group: group_size >= 2")
    terms = {
        str(name): instantiate(cfg, f"algo.reward_terms.{name}", RewardTerm) for name in cfg.algo.reward_terms
    }
    collector = Collector(
        task=bench.task,
        decode=response_decoder(bench.tokenizer, bench.sampling.stop_token_ids),
        group_size=run.group_size,
        sampling=bench.sampling,
        config=collection,
        terms=terms,
    )
    if cfg.strategy.compute_dtype not in COMPUTE_DTYPES:
        raise ConfigError(
            f"strategy.compute_dtype must be null, float32 or bfloat16, got {cfg.strategy.compute_dtype!r}"
        )
    return PolicyModule(
        load_policy=bench.model.load,
        make_engine=instantiate(cfg, "rollout.engine"),
        collector=collector,
        privileged=partial(_privileged, bench),
        objective=objective,
        importance=construct(
            ImportanceCorrection,
            cfg,
            {"level": "rollout.importance_correction", "cap": "rollout.importance_cap"},
        ),
        optimizer=instantiate(cfg, "algo.optimizer", OptimizerConfig),
        batching=instantiate(cfg, "strategy.batching", BatchConfig),
        seed=run.seed,
        compute_dtype=COMPUTE_DTYPES[cfg.strategy.compute_dtype],
        sharding=build_sharding(cfg),
    )


def _privileged(
    bench: Workbench, rollouts: Rollouts, distillation: Distillation
) -> tuple[TokenIds | None, ...]:
    """The self-teacher's prompts for graded responses."""
    return teacher_prompts(
        rollouts,
        bench.task,
        partial(encode_prompt, bench.tokenizer),
        from_siblings=distillation.from_siblings,
        from_feedback=distillation.from_feedback,
        success_threshold=distillation.success_threshold,
        drop_thoughts=distillation.drop_thoughts,
        feedback_beside_solution=distillation.feedback_beside_solution,
        positions=bench.model.positions,
    )


def build_data(cfg: DictConfig, run: RunConfig, bench: Workbench) -> PromptDataModule:
    """Training prompts."""
    problems = bench.problems("train")
    bench.check_room(problems)
    dataset = IterationDataset(
        problems.examples,
        problems.prompt_ids,
        prompts_per_iteration=run.prompts,
        iterations=run.iterations,
        seed=run.seed,
    )
    if dataset.left_out:
        _LOG.info(
            "%s: an epoch is %d iterations of %d prompts; %d of the %d shuffled problems are left out of it",
            bench.task.name,
            len(problems.examples) // run.prompts,
            run.prompts,
            dataset.left_out,
            len(problems.examples),
        )
    return PromptDataModule(dataset)


def _held_out(bench: Workbench, problems: Problems) -> HeldOutProblems:
    """Held-out problems, with what scoring them takes."""
    bench.check_room(problems)
    return HeldOutProblems(
        task=bench.task,
        examples=problems.examples,
        prompt_ids=problems.prompt_ids,
        decode=response_decoder(bench.tokenizer, bench.sampling.stop_token_ids),
        sampling=bench.sampling,
    )


def build_evaluation(cfg: DictConfig, bench: Workbench, stop: GracefulStop) -> HeldOutEvaluation:
    """The held-out evaluation around and during a run."""
    plan = build_plan(cfg)
    problems = _held_out(bench, bench.scored(cfg.evaluation.problems))
    return construct(
        HeldOutEvaluation,
        cfg,
        {
            "every": "curve.every",
            "curve_samples": "curve.samples",
            "folder": "output_dir",
            "answers": "samples.held_out",
        },
        problems=problems,
        plan=plan,
        interrupted=lambda: stop.reason is not None,
    )


def build_probe(cfg: DictConfig, bench: Workbench, start: int) -> Probe:
    """The probe that measures what the feedback guesses."""
    if not isinstance(cfg.probe.prompts, int) or cfg.probe.prompts < 2:
        raise ConfigError(f"probe.prompts must be 0 or a whole number above 1, got {cfg.probe.prompts!r}")
    problems = bench.problems("test", cfg.probe.prompts)
    if (found := len(problems.examples)) < cfg.probe.prompts:
        raise ConfigError(
            f"probe.prompts={cfg.probe.prompts}: {bench.task.name} has {found} held-out problems"
        )
    return construct(
        Probe,
        cfg,
        {"samples": "probe.samples", "folder": "output_dir"},
        problems=_held_out(bench, problems),
        plan=build_plan(cfg),
        start=start,
    )


def build_plan(cfg: DictConfig) -> EvaluationPlan:
    """How an evaluation measures."""
    names = ("samples", "ks", "prompts_per_batch", "confidence", "resamples", "seed")
    return construct(EvaluationPlan, cfg, {name: f"evaluation.{name}" for name in names}, majority=True)


def build_callbacks(
    cfg: DictConfig, run: RunConfig, bench: Workbench, distillation: Distillation | None, start: int
) -> list[pl.Callback]:
    """Everything around the loop; the order is the order in which they act."""
    folder = Path(run.output_dir)
    export = ModelExport(folder=str(folder / MODEL_FOLDER), tokenizer=bench.tokenizer)
    extra = {f"callbacks.{name}": build_extra_callback(cfg, str(name)) for name in cfg.callbacks}
    stop, progress = GracefulStop(), RunProgress()
    end = RunEnd(options=trainer_options(cfg), extra=extra, budget=run.iterations)
    evaluation = build_evaluation(cfg, bench, stop)
    callbacks: list[pl.Callback] = [stop, end]
    if (loop := build_pipo(cfg)) is not None:
        callbacks.append(loop)
    if distillation is not None and distillation.teacher_average < 1:
        callbacks.append(TeacherAverage(weight=distillation.teacher_average))
    callbacks += [
        SkippedStepLog(folder=str(folder)),
        construct(
            SampleLog,
            cfg,
            {"every": "samples.every", "prompts": "samples.prompts"},
            path=str(folder / "samples.jsonl"),
            start=start,
        ),
        # Before the last evaluation, so that interrupting that loses nothing.
        export,
        evaluation,
        *([build_probe(cfg, bench, start)] if cfg.probe.prompts else []),
        IterationLog(extra),
        progress,
        RandomState(),
        construct(
            IterationCheckpoint,
            cfg,
            {name: f"checkpoint.{name}" for name in ("every", "keep", "best")},
            folder=str(folder / "checkpoints"),
        ),
        RunResults(
            folder=str(folder),
            export=export,
            evaluation=evaluation,
            progress=progress,
            stop=stop,
            end=end,
            pages={CURVES_FILE: write_curves, REPORT_FILE: write_run_report},
        ),
    ]
    return [*callbacks, *extra.values()]


def build_pipo(cfg: DictConfig) -> PIPOCallback | None:
    """The closed loop; None for the base objective alone."""
    if cfg.pipo.name != "none":
        return PIPOCallback(read_options(cfg, "pipo", PipoOptions))
    if further := [name for name in cfg.pipo if name != "name"]:
        raise ConfigError(f"pipo.{further[0]}: unknown key; with pipo=none there is nothing to set")
    return None


def build_extra_callback(cfg: DictConfig, name: str) -> pl.Callback:
    """A callback of the user's own; it acts after all others but checkpoints, which Lightning puts last."""
    return instantiate(cfg, f"callbacks.{name}", pl.Callback)


def build_loggers(cfg: DictConfig, run: RunConfig, start: int) -> list[Logger]:
    """Metrics files, and W&B if chosen; in the first process only, which sees the metrics of all."""
    if cfg.logger.name == "none" or not is_first():
        return []
    loggers: list[Logger] = [MetricsFileLogger(folder=run.output_dir, start=start)]
    if cfg.logger.wandb is not None:
        loggers.append(instantiate(cfg, "logger.wandb", Logger))
    return loggers


def build_sharding(cfg: DictConfig) -> Sharding | None:
    """How weights are sharded; None unless the strategy shards."""
    if (cfg.strategy.trainer.strategy == "fsdp") != (cfg.strategy.sharding is not None):
        raise ConfigError("strategy.sharding goes with sharded weights, and only with them: strategy=fsdp")
    return None if cfg.strategy.sharding is None else instantiate(cfg, "strategy.sharding", Sharding)


def build_profiler(name: str, folder: Path) -> Profiler:
    """Lightning's profiler of that name, which writes into the run folder."""
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    if name not in kinds:
        raise ConfigError(f"{KEY}.profiler={name}: choose {', '.join(kinds)}")
    return kinds[name](dirpath=folder, filename="profile")


def build_trainer(
    cfg: DictConfig, callbacks: list[pl.Callback], loggers: list[Logger], objective: Objective
) -> pl.Trainer:
    """A trainer whose one epoch is the whole run and whose batches are iterations."""
    hardware = construct(Hardware, cfg, {name: f"{KEY}.{name}" for name in HARDWARE})
    options = trainer_options(cfg)
    if "profiler" in options:
        options["profiler"] = build_profiler(options["profiler"], Path(cfg.output_dir))
    sharding = build_sharding(cfg)
    strategy = build_strategy(
        hardware,
        has_critic=objective.critic is not None,
        cpu_offload=sharding is not None and sharding.cpu_offload,
    )
    try:
        return pl.Trainer(
            accelerator=hardware.device,
            devices=hardware.per_node,
            num_nodes=hardware.num_nodes,
            strategy=strategy,
            # Weights are as the model was loaded, and the module chooses what to compute in. Lightning's
            # autocast would keep casts of the old weights over the optimiser steps of an iteration.
            precision="32-true",
            **options,
            # Its answer to a signal would be a checkpoint in the middle of an iteration; see GracefulStop.
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
            max_epochs=1,
            default_root_dir=cfg.output_dir,
            logger=loggers or False,
            callbacks=callbacks,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            # There is no validation loop; callbacks that act on one act on the curve, see IterationLog.
            check_val_every_n_epoch=None,
            val_check_interval=cfg.curve.every,
            use_distributed_sampler=False,
            enable_checkpointing=True,
            enable_model_summary=False,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"{KEY}: {' '.join(str(error).split())}") from error
