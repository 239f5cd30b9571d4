"""From the composed configuration to objects, for ``train.py`` and ``eval.py``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
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
from pipo.model_spec import ModelSpec, build_model
from pipo.modules.functional.importance import ImportanceCorrection
from pipo.modules.objectives.base import Distillation, Objective
from pipo.modules.policy import load_tokenizer, stop_token_ids
from pipo.modules.policy_module import PolicyModule
from pipo.records import Rollouts, TokenIds
from pipo.rollout.collector import CollectionConfig, Collector
from pipo.rollout.engine import SamplingParams
from pipo.rollout.privileged import teacher_prompts
from pipo.tasks.base import Dropped, Example, Split, Task, TaskError
from pipo.tasks.datamodule import IterationDataset, PromptDataModule
from pipo.tasks.prompts import check_lengths, encode_examples, encode_prompt, response_decoder, trainable

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


@dataclass(frozen=True, kw_only=True)
class Problems:
    """A split with its tokenised prompts.

    Attributes:
        examples: the problems.
        prompt_ids: one tokenised prompt each.
        dropped: the rows that were left out.
    """

    examples: Sequence[Example]
    prompt_ids: Sequence[TokenIds]
    dropped: Sequence[Dropped]


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """A model at a task: what training and evaluation both need.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        key: where the task stands in the configuration: ``task``, or a part of a benchmark.
        task: problems and grader.
        sampling: how tokens are drawn.
        max_prompt_tokens: longest prompt.
    """

    model: ModelSpec
    tokenizer: PreTrainedTokenizerBase
    key: str
    task: Task
    sampling: SamplingParams
    max_prompt_tokens: int

    def problems(self, split: Split, limit: int | None = None) -> Problems:
        """A split of the task, tokenised; the first ``limit`` problems, None for all.

        Rows without a problem are left out. So are, for training, those that are held out too or whose
        prompt is too long; the held-out problems define the result, so there a long prompt is an error.

        Raises:
            ConfigError: the split cannot be read, a held-out prompt is too long, or nothing is left.
        """
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ConfigError(f"evaluation.problems must be a whole number above 0 or null, got {limit!r}")
        try:
            all_examples = self.task.examples(split)
            examples = list(all_examples)[:limit]
            prompt_ids = encode_examples(self.tokenizer, self.task, examples)
            dropped = list(self.task.dropped(split))
            if split == "test":
                check_lengths(examples, prompt_ids, self.max_prompt_tokens)
                self._report(split, dropped, len(all_examples))
                return Problems(examples=examples, prompt_ids=prompt_ids, dropped=dropped)
            held_out = self.task.examples("test")
        except TaskError as error:
            raise ConfigError(f"{self.key}: {error}") from error
        fit = trainable(examples, prompt_ids, held_out, self.max_prompt_tokens)
        kept = [i for i, problem in enumerate(fit) if problem is None]
        dropped += [
            Dropped(place=e.uid, reason=problem) for e, problem in zip(examples, fit, strict=True) if problem
        ]
        if not kept:
            raise ConfigError(
                f"{self.key}: no training problem is left; {dropped[0].place}: {dropped[0].reason}"
            )
        self._report(split, dropped, len(kept))
        return Problems(
            examples=[examples[i] for i in kept], prompt_ids=[prompt_ids[i] for i in kept], dropped=dropped
        )

    def _report(self, split: Split, dropped: Sequence[Dropped], used: int) -> None:
        """Count and name what was left out: a few on the terminal, all in the log file."""
        for row in dropped:
            _LOG.info("%s %s: left out %s: %s", self.task.name, split, row.place, row.reason)
        if dropped:
            named = "; ".join(f"{row.place}: {row.reason}" for row in dropped[:3])
            more = f"; {len(dropped) - 3} more are in the log" if len(dropped) > 3 else ""
            _LOG.warning(
                "%s %s: %d of %d rows left out (%s%s)",
                self.task.name,
                split,
                len(dropped),
                used + len(dropped),
                named,
                more,
            )


def build_workbench(
    cfg: DictConfig,
    key: str = "task",
    model: ModelSpec | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Workbench:
    """Model, tokenizer, task and sampling.

    Args:
        cfg: the whole configuration.
        key: where the task stands.
        model: the model, if it is known already.
        tokenizer: its tokenizer, likewise.
    """
    model = model or build_model(cfg)
    tokenizer = tokenizer or load_tokenizer(model.path)
    task = instantiate(cfg, f"{key}.source")
    sampling = construct(
        SamplingParams,
        cfg,
        {
            "temperature": "rollout.temperature",
            "top_p": "rollout.top_p",
            "top_k": "rollout.top_k",
            "max_response_tokens": f"{key}.max_response_tokens",
        },
        stop_token_ids=stop_token_ids(model.path, tokenizer),
    )
    return construct(
        Workbench,
        cfg,
        {"max_prompt_tokens": f"{key}.max_prompt_tokens"},
        model=model,
        tokenizer=tokenizer,
        key=key,
        task=task,
        sampling=sampling,
    )


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
        importance=construct(
            ImportanceCorrection,
            cfg,
            {"level": "rollout.importance_correction", "cap": "rollout.importance_cap"},
        ),
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
    problems = bench.problems("train")
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
    problems = bench.problems("test", cfg.evaluation.problems)
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
