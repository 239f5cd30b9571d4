"""What an evaluation says about itself: the content of ``results.json`` and of its row in W&B."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase

from pipo.config.instantiate import instantiate
from pipo.errors import ConfigError
from pipo.evaluation.benchmark import Benchmark, average
from pipo.evaluation.results import EvaluationPlan, EvaluationResult
from pipo.evaluation.statistics import Floats, pass_at_k
from pipo.lm.spec import ModelSpec
from pipo.rollout.task_setup import Problems, Workbench

# Where the results go, which has no influence on them.
_WITHOUT_INFLUENCE = ("output_dir", "resume", "preview", "logger", "run_name")
_LEFT_OUT_SHOWN = 10
# How many processes grade, and how long they may wait for the machine.
_WITHOUT_VERDICT = ("workers", "grader_workers", "grader_wall_s")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a benchmark, ready to be scored.

    Attributes:
        name: of the part.
        bench: the model at its task.
        problems: what is scored.
    """

    name: str
    bench: Workbench
    problems: Problems


def identities(cfg: DictConfig, parts: Sequence[Part], plan: EvaluationPlan) -> dict[str, dict[str, Any]]:
    """What makes the scores of each part what they are: task, prompt, problems with their tests, sampling."""
    return {part.name: _identity(cfg, part, plan) for part in parts}


def content(
    cfg: DictConfig,
    benchmark: Benchmark,
    model: ModelSpec,
    parts: Sequence[Part],
    results: Mapping[str, EvaluationResult],
    plan: EvaluationPlan,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that ``results.json`` holds; ``docs/evaluation.md`` explains each entry.

    Args:
        cfg: the configuration of the evaluation.
        benchmark: its structure.
        model: what was scored.
        parts: on what.
        results: part -> what was found.
        plan: how it was measured.
        run: command, commit and versions.
    """
    averaged = average(benchmark.columns, _metrics(results, plan), plan.confidence, plan.resamples, plan.seed)
    return {
        "results": {name: result.to_summary() for name, result in results.items()},
        "average": averaged,
        "solved": {name: [problem.solved for problem in r.problems] for name, r in results.items()},
        "not_covered": [dataclasses.asdict(each) for each in benchmark.missing],
        "metadata": {
            "benchmark": benchmark.name,
            "model": {
                "name": str(cfg.model.path if cfg.model.name == "huggingface" else cfg.model.name),
                "path": model.path,
                "checkpoint": None if model.checkpoint is None else str(model.checkpoint),
                "dtype": model.dtype,
            },
            "parts": {
                name: {**identity, "left_out": _left_out(part)}
                for part, (name, identity) in zip(parts, identities(cfg, parts, plan).items(), strict=True)
            },
            "bootstrap": {"confidence": plan.confidence, "resamples": plan.resamples, "seed": plan.seed},
            "config_hash": _config_hash(cfg),
            **{key: run[key] for key in ("git", "python", "versions")},
        },
    }


def _metrics(
    results: Mapping[str, EvaluationResult], plan: EvaluationPlan
) -> dict[str, Mapping[str, Floats]]:
    """Metric -> part -> one number per problem, for the metrics that every part has."""
    counts = {
        name: ([len(p.samples) for p in r.problems], [p.solved for p in r.problems])
        for name, r in results.items()
    }
    metrics: dict[str, Mapping[str, Floats]] = {
        f"pass@{k}": {name: pass_at_k(samples, solved, k) for name, (samples, solved) in counts.items()}
        for k in plan.ks
    }
    if all(result.majority for result in results.values()):
        metrics[f"maj@{plan.samples}"] = {
            name: np.array([p.majority for p in r.problems], dtype=np.float64) for name, r in results.items()
        }
    return metrics


def _identity(cfg: DictConfig, part: Part, plan: EvaluationPlan) -> dict[str, Any]:
    source = OmegaConf.to_container(cfg.benchmark.parts[part.name].source, resolve=True)
    task, sampling, problems = part.bench.task, part.bench.sampling, part.problems
    prompts = (task.render(example) for example in problems.examples)
    return {
        "task": task.name,
        "version": task.version,
        "template": task.template,
        "sampling": {
            **dataclasses.asdict(sampling),
            "stop_token_ids": sorted(sampling.stop_token_ids),
            "max_prompt_tokens": part.bench.max_prompt_tokens,
        },
        "samples": plan.samples,
        "seed": plan.seed,
        "prompts_per_batch": plan.prompts_per_batch,
        "problems": len(problems.examples),
        "problems_hash": _hash(dataclasses.asdict(example) for example in problems.examples),
        "grading_hash": _hash([_grading(source)]),
        "prompts_hash": _hash(dataclasses.asdict(prompt) for prompt in prompts),
        "chat_template": _chat_template(part.bench.tokenizer),
        "prompt_tokens_hash": _hash(problems.prompt_ids),
    }


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The hash of the model's chat template; None if it has none and reads plain text."""
    return _hash([tokenizer.get_chat_template()]) if tokenizer.chat_template else None


def _left_out(part: Part) -> dict[str, Any]:
    dropped = part.problems.dropped
    return {
        "count": len(dropped),
        "first": [dataclasses.asdict(row) for row in dropped[:_LEFT_OUT_SHOWN]],
    }


def _grading(source: Any) -> Any:
    """The options of a task and its grader, without where rows are and how it uses the machine."""
    if not isinstance(source, dict):
        return source
    return {
        key: _grading(value)
        for key, value in source.items()
        if key not in _WITHOUT_VERDICT and not (isinstance(value, dict) and "hub_id" in value)
    }


def _hash(values: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits that differ as soon as one of the values does."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=_plain).encode() + b"\n")
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """What JSON has no form for: sets have no order, everything else shows itself."""
    return sorted(map(repr, value)) if isinstance(value, set | frozenset) else repr(value)


def _config_hash(cfg: DictConfig) -> str:
    kept = OmegaConf.create({key: value for key, value in cfg.items() if key not in _WITHOUT_INFLUENCE})
    return _hash([OmegaConf.to_container(kept, resolve=True)])


def build_logger(cfg: DictConfig) -> WandbLogger | None:
    """The W&B run that the summary goes to, if one is wanted; it starts when something is logged."""
    if cfg.logger.name not in ("none", "wandb"):
        raise ConfigError(
            f"logger={cfg.logger.name}: an evaluation has no metrics over time, its results are in "
            "results.json; choose none or wandb"
        )
    return None if cfg.logger.wandb is None else instantiate(cfg, "logger.wandb")


def log_to_wandb(logger: WandbLogger, cfg: DictConfig, content: Mapping[str, Any]) -> None:
    """One row: the numbers of every part and the average in the run's summary, and as a small table."""
    import wandb

    rows = {**content["results"], "average": content["average"]}
    scalars = {
        f"eval/{name}/{key}": value
        for name, row in rows.items()
        for key, value in row.items()
        if isinstance(value, int | float) and key != "confidence"
    }
    metrics = [key for key, value in content["average"].items() if isinstance(value, float)]
    table = wandb.Table(
        columns=["part", *metrics],
        data=[[name, *(row[key] for key in metrics)] for name, row in rows.items()],
    )
    logger.log_hyperparams(
        {"config": OmegaConf.to_container(cfg, resolve=True), "metadata": content["metadata"]}
    )
    run = logger.experiment
    run.log({**scalars, "eval/table": table})  # the last values logged are the run's summary
    run.finish()
