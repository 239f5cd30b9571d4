"""From the composed configuration to objects, for ``train.py`` and ``eval.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.callbacks.export import ModelExport
from pipo.callbacks.interrupt import GracefulStop
from pipo.callbacks.iteration_log import IterationLog
from pipo.callbacks.progress import RunProgress
from pipo.callbacks.samples import SampleLog
from pipo.callbacks.teacher import TeacherAverage
from pipo.errors import ConfigError
from pipo.evaluation.results import EvaluationPlan
from pipo.instantiate import construct, instantiate
from pipo.loggers import MetricsFileLogger
from pipo.modules.objectives.base import Distillation, Objective
from pipo.modules.policy import (
    Policy,
    load_policy,
    load_tokenizer,
    load_weights,
    read_checkpoint,
    stop_token_ids,
)
from pipo.modules.policy_module import PolicyModule
from pipo.records import Rollouts, TokenIds
from pipo.rollout.collector import CollectionConfig, Collector
from pipo.rollout.engine import SamplingParams
from pipo.rollout.privileged import teacher_prompts
from pipo.tasks.base import Example, Split, Task
from pipo.tasks.datamodule import IterationDataset, PromptDataModule
from pipo.tasks.prompts import encode_examples, encode_prompt, response_decoder


def embedded_model(name: str) -> str:
    """Folder of a model that ships with the package."""
    folder = Path(__file__).parent / "assets" / name
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: the embedded model {name!r} is missing; make it with python -m pipo.tiny"
        )
    return str(folder)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which model, and how it is held.

    Attributes:
        name: short name, for reports.
        path: a Hugging Face folder or a hub id.
        dtype: of the weights, ``float32`` or ``bfloat16``.
        gradient_checkpointing: trade compute for activation memory.
        checkpoint: a checkpoint whose weights replace those at ``path``; None for none.
    """

    name: str
    path: str
    dtype: str
    gradient_checkpointing: bool
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype must be float32 or bfloat16, got {self.dtype!r}")

    def load(self) -> Policy:
        """Read the weights."""
        policy = load_policy(self.path, self.dtype, self.gradient_checkpointing)
        if self.checkpoint is not None:
            load_weights(policy, read_checkpoint(self.checkpoint))
        return policy


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


@dataclass(frozen=True, kw_only=True)
class Problems:
    """A split with its tokenised prompts.

    Attributes:
        examples: the problems.
        prompt_ids: one tokenised prompt each.
    """

    examples: Sequence[Example]
    prompt_ids: Sequence[TokenIds]


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """What training and evaluation both need.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        task: problems and grader.
        sampling: how tokens are drawn.
    """

    model: ModelSpec
    tokenizer: PreTrainedTokenizerBase
    task: Task
    sampling: SamplingParams

    def problems(self, cfg: DictConfig, split: Split, limit: int | None = None) -> Problems:
        """A split of the task, tokenised; the first ``limit`` problems, None for all."""
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ConfigError(f"evaluation.problems must be a whole number above 0 or null, got {limit!r}")
        examples = list(self.task.examples(split))[:limit]
        encode = partial(encode_examples, self.tokenizer, self.task, examples)
        prompt_ids = construct(encode, cfg, {"max_prompt_tokens": "task.max_prompt_tokens"})
        return Problems(examples=examples, prompt_ids=prompt_ids)


def build_model(cfg: DictConfig) -> ModelSpec:
    """Which model: an option of ``conf/model``, a Hugging Face folder or id, a run folder, a checkpoint."""
    if not OmegaConf.is_missing(cfg.model, "path") and OmegaConf.is_config(cfg.model.path):
        cfg = cfg.copy()
        cfg.model.path = str(instantiate(cfg, "model.path"))
    names = ("name", "path", "dtype", "gradient_checkpointing")
    spec: ModelSpec = construct(ModelSpec, cfg, {name: f"model.{name}" for name in names})
    path = Path(spec.path).expanduser()
    if spec.path.startswith("~"):
        spec = replace(spec, path=str(path))
    if path.suffix == ".ckpt":
        path = path.resolve()
        saved = path.parent.parent / "config.yaml"
        if not path.is_file() or not saved.is_file():
            raise ConfigError(f"model.path={path}: not a checkpoint inside a run folder")
        # The run's own configuration says what kind of model the weights belong to.
        return replace(build_model(OmegaConf.load(saved)), checkpoint=path)  # type: ignore[arg-type]
    if (path / "config.yaml").is_file():
        if not (path / "model").is_dir():
            raise ConfigError(
                f"model.path={path}: this run has not exported its model yet; name a checkpoint"
            )
        return replace(spec, path=str(path / "model"))
    return spec


def build_workbench(cfg: DictConfig) -> Workbench:
    """Model, tokenizer, task and sampling."""
    model = build_model(cfg)
    tokenizer = load_tokenizer(model.path)
    task = instantiate(cfg, "task.source")
    sampling = construct(
        SamplingParams,
        cfg,
        {
            "temperature": "rollout.temperature",
            "top_p": "rollout.top_p",
            "top_k": "rollout.top_k",
            "max_response_tokens": "task.max_response_tokens",
        },
        stop_token_ids=stop_token_ids(model.path, tokenizer),
    )
    return Workbench(model=model, tokenizer=tokenizer, task=task, sampling=sampling)


def build_run_config(cfg: DictConfig) -> RunConfig:
    """The run's own keys, checked."""
    keys = {name: name for name in ("seed", "iterations", "output_dir")}
    return construct(RunConfig, cfg, {**keys, "group_size": "algo.group_size", "prompts": "algo.prompts"})


def build_module(cfg: DictConfig, run: RunConfig, bench: Workbench) -> PolicyModule:
    """The LightningModule; the model itself is loaded later, by the trainer's strategy."""
    if not bench.sampling.temperature > 0:
        raise ConfigError("rollout.temperature must be above 0 to train: greedy responses are all alike")
    objective = instantiate(cfg, "algo.objective")
    if run.group_size < objective.min_group_size:
        raise ConfigError(
            f"algo.group_size={run.group_size}: {cfg.algo.name} compares the responses of a group and needs "
            f"at least {objective.min_group_size}"
        )
    collection = construct(
        CollectionConfig,
        cfg,
        {name: f"algo.{name}" for name in ("dynamic_sampling_rounds", "overlong_buffer")},
    )
    if collection.dynamic_sampling_rounds and run.group_size < 2:
        raise ConfigError("algo.dynamic_sampling_rounds compares the responses of a group: group_size >= 2")
    try:
        collector = Collector(
            task=bench.task,
            decode=response_decoder(bench.tokenizer),
            group_size=run.group_size,
            sampling=bench.sampling,
            config=collection,
        )
    except ValueError as error:
        raise ConfigError(f"algo: {error}") from error
    return PolicyModule(
        load_policy=bench.model.load,
        make_engine=instantiate(cfg, "rollout.engine"),
        collector=collector,
        privileged=partial(_privileged, bench),
        objective=objective,
        optimizer=instantiate(cfg, "algo.optimizer"),
        batching=instantiate(cfg, "strategy.batching"),
        seed=run.seed,
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
    )


def build_data(cfg: DictConfig, run: RunConfig, bench: Workbench) -> PromptDataModule:
    """Training prompts."""
    problems = bench.problems(cfg, "train")
    dataset = IterationDataset(
        problems.examples,
        problems.prompt_ids,
        prompts_per_iteration=run.prompts,
        iterations=run.iterations,
        seed=run.seed,
    )
    return PromptDataModule(dataset)


def build_evaluation(cfg: DictConfig, bench: Workbench) -> HeldOutEvaluation:
    """The held-out evaluation around and during a run."""
    plan = build_plan(cfg)
    problems = bench.problems(cfg, "test", cfg.evaluation.problems)
    return construct(
        HeldOutEvaluation,
        cfg,
        {"every": "curve.every", "curve_samples": "curve.samples"},
        task=bench.task,
        examples=problems.examples,
        prompt_ids=problems.prompt_ids,
        decode=response_decoder(bench.tokenizer),
        sampling=bench.sampling,
        plan=plan,
    )


def build_plan(cfg: DictConfig) -> EvaluationPlan:
    """How an evaluation measures."""
    names = ("samples", "ks", "prompts_per_batch", "confidence", "resamples", "seed")
    return construct(EvaluationPlan, cfg, {name: f"evaluation.{name}" for name in names})


def build_callbacks(
    cfg: DictConfig, run: RunConfig, bench: Workbench, distillation: Distillation | None, start: int
) -> list[pl.Callback]:
    """Everything around the loop; the order is the order in which they act."""
    folder = Path(run.output_dir)
    callbacks: list[pl.Callback] = [GracefulStop()]
    if cfg.pipo.callback is not None:
        callbacks.append(instantiate(cfg, "pipo.callback"))
    if distillation is not None and distillation.teacher_average < 1:
        callbacks.append(TeacherAverage(weight=distillation.teacher_average))
    callbacks += [
        construct(
            SampleLog,
            cfg,
            {"every": "samples.every", "prompts": "samples.prompts"},
            path=str(folder / "samples.jsonl"),
            start=start,
        ),
        # Before the last evaluation, so that interrupting that loses nothing.
        ModelExport(folder=str(folder / "model"), tokenizer=bench.tokenizer),
        build_evaluation(cfg, bench),
        IterationLog(),
        RunProgress(),
        construct(
            IterationCheckpoint,
            cfg,
            {"every": "checkpoint.every", "keep": "checkpoint.keep"},
            folder=str(folder / "checkpoints"),
        ),
    ]
    return callbacks


def build_loggers(cfg: DictConfig, run: RunConfig, start: int) -> list[Logger]:
    """Metrics files, and W&B if chosen."""
    if cfg.logger.name == "none":
        return []
    loggers: list[Logger] = [MetricsFileLogger(folder=run.output_dir, start=start)]
    if cfg.logger.wandb is not None:
        loggers.append(instantiate(cfg, "logger.wandb"))
    return loggers


def build_trainer(
    cfg: DictConfig, callbacks: list[pl.Callback], loggers: list[Logger], objective: Objective
) -> pl.Trainer:
    """A trainer whose one epoch is the whole run and whose batches are iterations."""
    container = OmegaConf.to_container(cfg.strategy.trainer, resolve=True)
    assert isinstance(container, dict)
    options = {str(key): value for key, value in container.items()}
    if str(options["precision"]) in ("16-mixed", "16-true", "bf16-true"):
        raise ConfigError(
            "strategy.trainer.precision: use 32-true or bf16-mixed; weights in bfloat16: model.dtype=bfloat16"
        )
    if options["strategy"] == "ddp" and objective.critic is not None:
        # Policy and critic have a backward pass each, which leaves the other's parameters unused.
        options["strategy"] = "ddp_find_unused_parameters_true"
    if options["accelerator"] == "auto":
        options["accelerator"] = default_device()
    try:
        return pl.Trainer(
            **options,
            max_epochs=1,
            logger=loggers or False,
            callbacks=callbacks,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_checkpointing=True,
            enable_model_summary=False,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"strategy.trainer: {error}") from error


def default_device() -> str:
    """A CUDA GPU if there is one, else the CPU; other accelerators lack double precision."""
    return "cuda" if torch.cuda.is_available() else "cpu"
