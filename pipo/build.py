"""Build the objects of a run from the typed configuration, for ``train.py`` and ``eval.py``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from transformers import PreTrainedTokenizerBase

from pipo.analysis.pages import PAGES
from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.callbacks.ending import KEY, RunEnd
from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.callbacks.export import ModelExport
from pipo.callbacks.guard import SkippedStepLog
from pipo.callbacks.held_out import HeldOutProblems
from pipo.callbacks.interrupt import GracefulStop
from pipo.callbacks.iteration_log import IterationLog, MonitoredMetrics
from pipo.callbacks.pipo import PIPOCallback
from pipo.callbacks.pipo_options import PipoOptions
from pipo.callbacks.probe import Probe
from pipo.callbacks.progress_bar import RunProgress
from pipo.callbacks.random_state import RandomState
from pipo.callbacks.results import RunResults
from pipo.callbacks.samples import SampleLog
from pipo.callbacks.step_control import StepControl
from pipo.callbacks.teacher import TeacherAverage
from pipo.config.trainer_options import OVERFIT, trainer_options
from pipo.config.tree import EvalConfig, StrategyConfig, TaskConfig, TrainConfig
from pipo.distributed.hardware import Hardware
from pipo.distributed.processes import is_first
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.distributed.strategies import build_strategy
from pipo.errors import ConfigError
from pipo.lm.model_files import parameter_count
from pipo.lm.policy import stop_token_ids
from pipo.lm.spec import ModelSpec
from pipo.modules.objectives.base import Distillation, Objective
from pipo.modules.options import BatchConfig, OptimizerConfig
from pipo.modules.policy_module import PolicyModule
from pipo.records.rollouts import Rollouts, TokenIds
from pipo.rollout.collector import Collector
from pipo.rollout.datamodule import IterationDataset, PromptDataModule
from pipo.rollout.options import SamplingParams
from pipo.rollout.privileged import teacher_prompts
from pipo.rollout.reward_terms import RewardTerm
from pipo.rollout.task_setup import Problems, TaskSetup
from pipo.runs.metric_files import MetricsFileLogger
from pipo.runs.run_summary import MODEL_FOLDER
from pipo.tasks.prompts import encode_prompt, reply_encoder, response_decoder

_LOG = logging.getLogger(__name__)
MOST_IN_FLOAT32 = 500_000_000
"""Parameters up to which a GPU may compute in float32 without being told to."""


def build_task_setup(
    config: TrainConfig | EvalConfig,
    key: str,
    task: TaskConfig,
    model: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
) -> TaskSetup:
    """A model at a task.

    Args:
        config: the whole configuration.
        key: where the task stands.
        task: the task.
        model: the model.
        tokenizer: its tokenizer.
    """
    if config.data_dir is not None and not Path(config.data_dir).expanduser().is_dir():
        raise ConfigError(f"data_dir={config.data_dir}: no such folder")
    rollout = config.rollout
    return TaskSetup(
        model=model,
        tokenizer=tokenizer,
        key=key,
        task=task.build(),
        sampling=SamplingParams(
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            min_p=rollout.min_p,
            max_response_tokens=task.max_response_tokens,
            stop_token_ids=stop_token_ids(model.path, tokenizer),
        ),
        max_prompt_tokens=task.max_prompt_tokens,
    )


def check_products(strategy: StrategyConfig, trainer: Hardware, path: str) -> None:
    """Refuse to compute in float32 on a GPU, with a model that is no toy, where nobody has asked for that.

    Raises:
        ConfigError: naming the key.
    """
    if strategy.compute_dtype is None and trainer.device == "cuda":
        parameters = parameter_count(path)
        if parameters > MOST_IN_FLOAT32:
            raise ConfigError(
                f"strategy.compute_dtype=null: products of {parameters / 1e9:.1f} billion parameters would "
                "be in float32, which takes a GPU many times as long as bfloat16; choose precision@strategy="
                "bfloat16, or strategy.compute_dtype=float32 if that is meant"
            )


def build_objective(config: TrainConfig) -> Objective:
    """The algorithm.

    Raises:
        ConfigError: it cannot be trained with the rest of the configuration.
    """
    if not config.rollout.temperature > 0:
        raise ConfigError("rollout.temperature must be above 0 to train: greedy responses are all alike")
    algo, strategy = config.algo, config.strategy
    objective = algo.objective.build(Objective)
    if algo.group_size < objective.min_group_size:
        raise ConfigError(
            f"algo.group_size={algo.group_size}: {algo.name} compares the responses of a group and needs "
            f"at least {objective.min_group_size}"
        )
    if objective.recalls and config.rollout.cuts and config.rollout.replay_sampling_mask:
        raise ConfigError(
            f"rollout.top_p, rollout.top_k, rollout.min_p: {algo.name} scores earlier responses again, whose "
            "sampling masks are gone; sample from the whole distribution (1.0, 0, 0.0), or set "
            "rollout.replay_sampling_mask=false"
        )
    if objective.draws_prompts and not config.shuffle:
        raise ConfigError(f"shuffle=false: {algo.name} draws the prompts itself, in no order")
    if objective.draws_prompts and algo.dynamic_sampling_rounds:
        raise ConfigError(
            f"algo.dynamic_sampling_rounds={algo.dynamic_sampling_rounds}: {algo.name} draws the prompts "
            "itself, by what became of every answer; 0 leaves none out"
        )
    if algo.dynamic_sampling_rounds and algo.group_size < 2:
        raise ConfigError("algo.dynamic_sampling_rounds compares the responses of a group: group_size >= 2")
    if (config.trainer.strategy == "fsdp") != (strategy.sharding is not None):
        raise ConfigError("strategy.sharding goes with sharded weights, and only with them: strategy=fsdp")
    return objective


def build_module(config: TrainConfig, setup: TaskSetup) -> PolicyModule:
    """The LightningModule; the model itself is loaded later, by the trainer's strategy."""
    setup.model.check_trainable()
    check_products(config.strategy, config.trainer, setup.model.path)
    objective, algo, strategy = build_objective(config), config.algo, config.strategy
    compute_dtype = None if strategy.compute_dtype is None else getattr(torch, strategy.compute_dtype)
    return PolicyModule(
        load_policy=partial(setup.model.load, derive_seed(config.seed, Purpose.ADAPTERS)),
        make_engine=config.rollout.engine.build(),
        collector=build_collector(config, setup),
        privileged=partial(_privileged, setup),
        objective=objective,
        importance=config.rollout.correction,
        cut=setup.sampling if setup.sampling.cuts and config.rollout.replay_sampling_mask else None,
        optimizer=OptimizerConfig(
            learning_rate=config.recipe.learning_rate,
            iterations=config.iterations,
            **algo.optimizer.model_dump(),
        ),
        batching=BatchConfig(
            mini_batch=config.recipe.mini_batch, tokens_per_micro_batch=strategy.tokens_per_micro_batch
        ),
        seed=config.seed,
        compute_dtype=compute_dtype,
        sharding=strategy.sharding,
        look_back=config.improvement or ("device" if _acts_on_improvement(config) else None),
    )


def _acts_on_improvement(config: TrainConfig) -> bool:
    """Whether what the last iteration did has a say in the next."""
    paired = isinstance(config.pipo, PipoOptions) and config.pipo.feedback == "paired"
    return paired or config.pipo.step_control is not None


def build_collector(config: TrainConfig, setup: TaskSetup) -> Collector:
    """What turns prompts into graded responses."""
    terms = config.algo.reward_terms
    return Collector(
        task=setup.task,
        decode=response_decoder(setup.tokenizer, setup.sampling.stop_token_ids),
        encode_reply=reply_encoder(setup.tokenizer),
        group_size=config.algo.group_size,
        sampling=setup.sampling,
        dynamic_sampling_rounds=config.algo.dynamic_sampling_rounds,
        # A protocol of one call, which a type checker does not take for a type.
        terms={name: node.build(RewardTerm) for name, node in terms.items()},  # type: ignore[type-abstract]
    )


def _privileged(
    setup: TaskSetup, rollouts: Rollouts, distillation: Distillation
) -> tuple[TokenIds | None, ...]:
    """The self-teacher's prompts for graded responses."""
    return teacher_prompts(
        rollouts,
        setup.task,
        partial(encode_prompt, setup.tokenizer),
        from_siblings=distillation.from_siblings,
        from_feedback=distillation.from_feedback,
        success_threshold=distillation.success_threshold,
        drop_thoughts=distillation.drop_thoughts,
        feedback_beside_solution=distillation.feedback_beside_solution,
        positions=setup.model.positions,
    )


def build_data(config: TrainConfig, setup: TaskSetup, objective: Objective) -> PromptDataModule:
    """Training prompts, drawn by the algorithm if it does so."""
    problems, prompts = setup.problems("train"), config.algo.prompts
    setup.check_room(problems)
    dataset = IterationDataset(
        problems.examples,
        problems.prompt_ids,
        prompts_per_iteration=prompts,
        iterations=config.iterations,
        seed=config.seed,
        shuffle=config.shuffle,
        repeat_after=trainer_options(config).get(OVERFIT) or None,
        prompt_weights=objective.prompt_weights if objective.draws_prompts else None,
    )
    if dataset.left_out:
        _LOG.info(
            "%s: an epoch is %d iterations of %d prompts; %d of the %d problems are left out of it",
            setup.task.name,
            len(problems.examples) // prompts,
            prompts,
            dataset.left_out,
            len(problems.examples),
        )
    return PromptDataModule(dataset)


def _held_out(setup: TaskSetup, problems: Problems) -> HeldOutProblems:
    """Held-out problems, with what scoring them takes."""
    setup.check_room(problems)
    return HeldOutProblems(
        task=setup.task,
        examples=problems.examples,
        prompt_ids=problems.prompt_ids,
        decode=response_decoder(setup.tokenizer, setup.sampling.stop_token_ids),
        encode_reply=reply_encoder(setup.tokenizer),
        sampling=setup.sampling,
    )


def build_evaluation(config: TrainConfig, setup: TaskSetup, stop: GracefulStop) -> HeldOutEvaluation:
    """The held-out evaluation around and during a run."""
    return HeldOutEvaluation(
        problems=_held_out(setup, setup.scored(config.evaluation.problems)),
        plan=config.evaluation.plan(),
        every=config.curve.every,
        curve_samples=config.curve.samples,
        folder=config.output_dir,
        answers=config.samples.held_out,
        interrupted=lambda: stop.reason is not None,
    )


def build_probe(config: TrainConfig, setup: TaskSetup, start: int) -> Probe:
    """The probe that measures what the feedback guesses."""
    wanted = config.probe.prompts
    if wanted < 2:
        raise ConfigError(f"probe.prompts must be 0 or a whole number above 1, got {wanted}")
    problems = setup.problems("test", wanted)
    if (found := len(problems.examples)) < wanted:
        raise ConfigError(f"probe.prompts={wanted}: {setup.task.name} has {found} held-out problems")
    return Probe(
        problems=_held_out(setup, problems),
        plan=config.evaluation.plan(),
        samples=config.probe.samples,
        folder=config.output_dir,
        start=start,
    )


def build_method(config: TrainConfig, distillation: Distillation | None) -> list[pl.Callback]:
    """What of the method acts around an objective, in the order in which it acts.

    Args:
        config: of the run.
        distillation: of the objective, if it has one.
    """
    return [
        *([] if (control := config.pipo.step_control) is None else [StepControl(control)]),
        *([PIPOCallback(config.pipo)] if isinstance(config.pipo, PipoOptions) else []),
        *(
            [TeacherAverage(weight=distillation.teacher_average)]
            if distillation is not None and distillation.teacher_average < 1
            else []
        ),
    ]


def build_callbacks(
    config: TrainConfig,
    setup: TaskSetup,
    distillation: Distillation | None,
    start: int,
    own: Mapping[str, pl.Callback],
) -> list[pl.Callback]:
    """Everything around the loop; the order is the order in which they act.

    A callback of the user's own acts after all others but the log, which writes what it adds to the row, and
    checkpoints, which Lightning puts last.

    Args:
        config: of the run.
        setup: its model at its task.
        distillation: of the objective, if it has one.
        start: first iteration of this program.
        own: callbacks that a script hands over, beside those of the configuration.
    """
    folder = Path(config.output_dir)
    export = ModelExport(folder=str(folder / MODEL_FOLDER), tokenizer=setup.tokenizer)
    extra = {f"callbacks.{name}": node.build(pl.Callback) for name, node in config.callbacks.items()} | dict(
        own
    )
    stop, progress = GracefulStop(), RunProgress()
    end = RunEnd(options=trainer_options(config), extra=extra, budget=config.iterations)
    evaluation = build_evaluation(config, setup, stop)
    return [
        stop,
        end,
        *build_method(config, distillation),
        SkippedStepLog(folder=str(folder)),
        SampleLog(
            every=config.samples.every,
            prompts=config.samples.prompts,
            path=str(folder / "samples.jsonl"),
            start=start,
        ),
        # Before the last evaluation, so that interrupting that loses nothing.
        export,
        evaluation,
        *([build_probe(config, setup, start)] if config.probe.prompts else []),
        MonitoredMetrics(),
        progress,
        RandomState(),
        IterationCheckpoint(
            every=config.checkpoint.every,
            keep=config.checkpoint.keep,
            best=config.checkpoint.best,
            folder=str(folder / "checkpoints"),
        ),
        RunResults(
            folder=str(folder),
            export=export,
            evaluation=evaluation,
            progress=progress,
            stop=stop,
            end=end,
            pages=PAGES,
        ),
        *extra.values(),
        IterationLog(extra),
    ]


def build_loggers(config: TrainConfig, start: int) -> list[Logger]:
    """Those chosen; in the first process only, which sees the metrics of all."""
    if not is_first():
        return []
    place = {"folder": config.output_dir, "start": start}
    return [
        node.build(Logger, **(place if node.makes(MetricsFileLogger) else {}))
        for node in config.logger.values()
    ]


def build_profiler(name: str, folder: Path) -> Profiler:
    """Lightning's profiler of that name, which writes into the run folder."""
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    if name not in kinds:
        raise ConfigError(f"{KEY}.profiler={name}: choose {', '.join(kinds)}")
    return kinds[name](dirpath=folder, filename="profile")


def build_trainer(
    config: TrainConfig, callbacks: list[pl.Callback], loggers: list[Logger], objective: Objective
) -> pl.Trainer:
    """A trainer whose one epoch is the whole run and whose batches are iterations."""
    hardware, sharding = config.trainer, config.strategy.sharding
    options = trainer_options(config)
    options.pop(OVERFIT, None)  # the data module sees to it
    if "profiler" in options:
        options["profiler"] = build_profiler(options["profiler"], Path(config.output_dir))
    try:
        hardware.check()
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}") from error
    strategy = build_strategy(
        hardware,
        has_critic=objective.critic is not None,
        cpu_offload=sharding is not None and sharding.cpu_offload,
        timeout_s=config.strategy.timeout_s,
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
            default_root_dir=config.output_dir,
            logger=loggers or False,
            callbacks=callbacks,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            # There is no validation loop; callbacks that act on one act on the curve, see IterationLog.
            check_val_every_n_epoch=None,
            val_check_interval=config.curve.every,
            use_distributed_sampler=False,
            enable_checkpointing=True,
            enable_model_summary=False,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"{KEY}: {' '.join(str(error).split())}") from error
