"""Content of ``results.json`` and of an evaluation's row in W&B: scores, settings and fingerprints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipo.evaluation.benchmark import Benchmark, average
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.results import EvaluationResult
from pipo.evaluation.statistics import Floats, pass_at_k
from pipo.lm.spec import ModelSpec
from pipo.rollout.task_setup import Problems, TaskSetup
from pipo.tasks.chat import variables_of

# Where the results go, which has no influence on them.
_WITHOUT_INFLUENCE = ("output_dir", "resume", "preview", "logger")
_LEFT_OUT_SHOWN = 10
# How many processes grade, and how long they may wait for the machine.
_WITHOUT_VERDICT = ("workers", "batch_s", "wall_s", "grader_workers", "grader_wall_s")
# By one of these a node is known to say where rows are.
_OF_ROWS = {"hub_id", "held_out"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a benchmark, ready to be scored."""

    name: str
    """Name of the part."""
    setup: TaskSetup
    """The model at its task."""
    source: Mapping[str, Any]
    """Options of the task, its grader and its tool."""
    problems: Problems
    """Problems that are scored."""


def identities(parts: Sequence[Part], plan: EvaluationPlan) -> dict[str, dict[str, Any]]:
    """What makes the scores of each part what they are: task, prompt, problems with their tests, sampling."""
    return {part.name: _identity(part, plan) for part in parts}


def content(
    record: Mapping[str, Any],
    benchmark: Benchmark,
    model: ModelSpec,
    parts: Sequence[Part],
    results: Mapping[str, EvaluationResult],
    plan: EvaluationPlan,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that ``results.json`` holds; ``docs/evaluation.md`` explains each entry.

    Args:
        record: the configuration of the evaluation, as plain values.
        benchmark: its structure.
        model: what was scored.
        parts: on what.
        results: part -> what was found.
        plan: how it was measured.
        run: command, commit and versions.
    """
    named = record["model"]
    averaged = average(benchmark.columns, _metrics(results, plan), plan.confidence, plan.resamples, plan.seed)
    return {
        "results": {name: result.to_summary() for name, result in results.items()},
        "average": averaged,
        "solved": {name: [problem.solved for problem in r.problems] for name, r in results.items()},
        "not_covered": [dataclasses.asdict(each) for each in benchmark.not_covered],
        "metadata": {
            "benchmark": benchmark.name,
            "model": {
                "name": str(named["path"] if named["name"] == "huggingface" else named["name"]),
                "path": model.path,
                "checkpoint": None if model.checkpoint is None else str(model.checkpoint),
                "dtype": model.dtype,
            },
            "parts": {
                name: {**identity, "left_out": _left_out(part)}
                for part, (name, identity) in zip(parts, identities(parts, plan).items(), strict=True)
            },
            "bootstrap": {"confidence": plan.confidence, "resamples": plan.resamples, "seed": plan.seed},
            "config_hash": _config_hash(record),
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


def _identity(part: Part, plan: EvaluationPlan) -> dict[str, Any]:
    task, sampling, problems = part.setup.task, part.setup.sampling, part.problems
    prompts = (task.render(example) for example in problems.examples)
    return {
        "task": task.name,
        "version": task.version,
        "template": task.template,
        "sampling": {
            **sampling.model_dump(),
            "stop_token_ids": sorted(sampling.stop_token_ids),
            "max_prompt_tokens": part.setup.max_prompt_tokens,
        },
        "samples": plan.samples,
        "seed": plan.seed,
        "prompts_per_batch": plan.prompts_per_batch,
        "problems": len(problems.examples),
        "problems_hash": _hash(dataclasses.asdict(example) for example in problems.examples),
        "grading_hash": _hash([_grading(part.source)]),
        "prompts_hash": _hash(dataclasses.asdict(prompt) for prompt in prompts),
        "chat_template": _chat_template(part.setup.tokenizer),
        "prompt_tokens_hash": _hash(problems.prompt_ids),
    }


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The hash of the model's chat template and its variables; None if it has none and reads plain text."""
    if not tokenizer.chat_template:
        return None
    variables = variables_of(tokenizer)
    return _hash([tokenizer.get_chat_template(), *([variables] if variables else [])])


def _left_out(part: Part) -> dict[str, Any]:
    dropped = part.problems.dropped
    return {
        "count": len(dropped),
        "first": [dataclasses.asdict(row) for row in dropped[:_LEFT_OUT_SHOWN]],
    }


def _grading(source: Any) -> Any:
    """The options of a task and its grader, without where rows are and how it uses the machine."""
    if not isinstance(source, Mapping):
        return source
    return {
        key: _grading(value)
        for key, value in source.items()
        if key not in _WITHOUT_VERDICT and not (isinstance(value, dict) and _OF_ROWS & value.keys())
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


def _config_hash(record: Mapping[str, Any]) -> str:
    return _hash([{key: value for key, value in record.items() if key not in _WITHOUT_INFLUENCE}])
