"""Sample, grade and summarise a list of problems.

The same function measures held-out accuracy during training and benchmarks in ``eval.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipo.evaluation.metric import PassAtK
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.results import EvaluationResult, LevelResult, ProblemResult, Sample
from pipo.evaluation.statistics import Estimate, estimate, mean_at_n
from pipo.evaluation.voting import majority_values
from pipo.records.problems import Example
from pipo.records.rollouts import TokenIds
from pipo.rollout.engine import RolloutEngine
from pipo.rollout.graded import Graded, sample_and_grade
from pipo.rollout.options import SamplingParams
from pipo.tasks.base import Task
from pipo.tasks.prompts import Decode, EncodeReply

OnBatch = Callable[[Sequence[ProblemResult]], None]
"""Called with each batch of newly scored problems."""

_MEANS = ("reward", "response_length", "truncated", "grader_errors", "infrastructure_errors")


def evaluate(
    engine: RolloutEngine,
    task: Task,
    examples: Sequence[Example],
    prompt_ids: Sequence[TokenIds],
    decode: Decode,
    encode_reply: EncodeReply,
    sampling: SamplingParams,
    plan: EvaluationPlan,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    done: Sequence[ProblemResult] = (),
    on_batch: OnBatch | None = None,
) -> EvaluationResult:
    """Evaluate this rank's share of the problems and summarise those of all ranks.

    Batches are dealt to the ranks in turn, each with a seed of its own; with several ranks they are made
    smaller, so that none waits for others (:func:`batch_size`). Every rank must call this, and every rank
    gets the same numbers.

    Args:
        engine: samples the responses.
        task: grades them.
        examples: all problems, the same list on every rank.
        prompt_ids: their tokenised prompts.
        decode: turns token ids into text.
        encode_reply: turns what an environment said into token ids.
        sampling: temperature and limits of the evaluation.
        plan: samples per problem, batches, intervals and seed.
        rank: this process among ``world_size``.
        world_size: processes that share the problems.
        device: where results are gathered; the accelerator when the process group needs one (NCCL).
        done: whole batches that were scored before, with the same plan; they are not scored again.
        on_batch: told of each batch that is scored now.

    Raises:
        ValueError: when there are no problems, or not one prompt for each.
        RuntimeError: when the shares of all ranks do not add up to all problems.
    """
    if not examples:
        raise ValueError("examples: there is nothing to evaluate")
    if len(prompt_ids) != len(examples):
        raise ValueError(f"prompt_ids: {len(prompt_ids)} prompts for {len(examples)} examples")
    vote = plan.majority and task.votes
    sample = partial(
        sample_and_grade,
        engine,
        task,
        group_size=plan.samples,
        sampling=sampling,
        decode=decode,
        encode_reply=encode_reply,
    )
    known = {problem.index: problem for problem in done}
    problems: list[ProblemResult] = []
    size = batch_size(len(examples), plan.prompts_per_batch, world_size)
    starts = range(0, len(examples), size)
    own = list(enumerate(starts))[rank::world_size]
    for number, start in own:
        batch = range(start, min(start + size, len(examples)))
        if start in known:
            problems += [known[i] for i in batch]
            continue
        seed = _batch_seed(plan.seed, number)
        asked, prompts = [examples[i] for i in batch], [prompt_ids[i] for i in batch]
        samples = _by_problem(sample(asked, prompts, seed=seed), plan.samples)
        votes = majority_values(samples, task.same_answers) if vote else [None] * len(batch)
        scored = [
            _problem(i, examples[i], decode(prompt_ids[i]), drawn, majority)
            for i, drawn, majority in zip(batch, samples, votes, strict=True)
        ]
        problems += scored
        if on_batch is not None:
            on_batch(scored)
    if len(own) * world_size < len(starts):
        sample([], [], seed=plan.seed)  # ranks that sample together ask equally often
    names = (*_MEANS, *map(_of_function, task.reward_names), *(("majority",) if vote else ()))
    metric = PassAtK(plan.ks, names).to(device)
    metric.update(*_columns(problems, names))
    # torchmetrics drops the axis of one problem.
    table = {name: torch.atleast_1d(column) for name, column in metric.compute().items()}
    if len(table["index"]) != len(examples):
        raise RuntimeError(
            f"{len(table['index'])} of {len(examples)} problems were evaluated: rank {rank} expected"
            f" {world_size} processes to gather from"
        )
    return _summarise(table, examples, plan, tuple(problems), task.reward_names)


def batch_size(problems: int, most: int, ranks: int) -> int:
    """Problems of a batch, such that all ranks have equally many batches of nearly equal size.

    Args:
        problems: in all.
        most: largest batch (``evaluation.prompts_per_batch``), which a single process takes as it is.
        ranks: processes that share the problems.

    Example:
        At most 64 at a time, 256 problems are four batches: half of eight ranks would have nothing to do.

        >>> batch_size(256, 64, 1), batch_size(256, 64, 8), batch_size(520, 64, 8)
        (64, 32, 33)
    """
    if ranks == 1:
        return most
    rounds = math.ceil(problems / (ranks * most))
    return math.ceil(problems / (ranks * rounds))


def gather_problems(problems: Sequence[ProblemResult]) -> tuple[ProblemResult, ...]:
    """The problems of all ranks in order, for writing them to one file. Every rank must call this."""
    shares: list[Sequence[ProblemResult]] = [problems]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shares = [()] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, problems)
    by_index = {problem.index: problem for share in shares for problem in share}
    return tuple(by_index[index] for index in sorted(by_index))


def _of_function(name: str) -> str:
    """The column of one reward of several."""
    return f"rewards/{name}"


def _batch_seed(seed: int, batch: int) -> int:
    """A seed that differs between batches and does not repeat for neighbouring plan seeds."""
    return int(np.random.SeedSequence((seed, batch)).generate_state(1)[0])


def _by_problem(graded: Graded, count: int) -> list[list[Sample]]:
    """The ``count`` responses to each problem with their verdicts."""
    drawn = graded.completions
    finished, lengths = drawn.finished.tolist(), drawn.sampled_lengths.tolist()
    said = graded.transcripts or [None] * len(finished)
    rows = zip(graded.texts, graded.verdicts, finished, lengths, said, strict=True)
    samples = [
        Sample.of(text, verdict, finished=done, length=length, messages=messages)
        for text, verdict, done, length, messages in rows
    ]
    return [samples[start : start + count] for start in range(0, len(samples), count)]


def _problem(
    index: int, example: Example, prompt: str, samples: Sequence[Sample], majority: float | None
) -> ProblemResult:
    return ProblemResult(
        index=index,
        uid=example.uid,
        level=example.level,
        prompt=prompt,
        answer=example.answer,
        samples=tuple(samples),
        majority=majority,
    )


def _columns(
    problems: Sequence[ProblemResult], names: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the metric takes: index, n, c and the named means."""
    if not problems:
        none = torch.empty(0, dtype=torch.int64)
        return none, none, none, torch.empty(0, len(names), dtype=torch.float64)
    columns = {
        "reward": mean_at_n([[s.score for s in p.samples] for p in problems]),
        "response_length": mean_at_n([[s.length for s in p.samples] for p in problems]),
        "truncated": mean_at_n([[not s.finished for s in p.samples] for p in problems]),
        "grader_errors": mean_at_n(
            [[s.error is not None and not s.infrastructure for s in p.samples] for p in problems]
        ),
        "infrastructure_errors": mean_at_n([[s.infrastructure for s in p.samples] for p in problems]),
        "majority": np.array([p.majority for p in problems], dtype=np.float64),
    }
    for name in names:
        if name not in columns:
            given = [
                [(s.rewards or {}).get(name.removeprefix(_of_function(""))) for s in p.samples]
                for p in problems
            ]
            columns[name] = _mean_of_known(given)
    means = np.stack([columns[name] for name in names], axis=1)
    return (
        torch.tensor([p.index for p in problems]),
        torch.tensor([len(p.samples) for p in problems]),
        torch.tensor([p.solved for p in problems]),
        torch.from_numpy(means),
    )


def _mean_of_known(values: Sequence[Sequence[float | None]]) -> np.ndarray:
    """[problems], the mean over the responses to which a reward applies; nan for none."""
    known = [[value for value in row if value is not None] for row in values]
    return np.array([np.mean(row) if row else np.nan for row in known])


def _summarise(
    table: dict[str, Tensor],
    examples: Sequence[Example],
    plan: EvaluationPlan,
    problems: tuple[ProblemResult, ...],
    reward_names: Sequence[str],
) -> EvaluationResult:
    columns = {name: column.numpy() for name, column in table.items()}

    def count(name: str) -> int:
        return round(float((columns[name] * columns["samples"]).sum()))

    def mean(values: np.ndarray, *, share: bool = True) -> Estimate:
        return estimate(values, plan.confidence, plan.resamples, plan.seed, share=share)

    given = {name: columns[_of_function(name)] for name in reward_names}
    # Row i of the table is example i: the rows are sorted and none is missing.
    levels = np.array([example.level for example in examples])
    names = sorted({example.level for example in examples if example.level}, key=_level_order)
    return EvaluationResult(
        pass_at_k={k: mean(columns[f"pass@{k}"]) for k in plan.ks},
        majority={plan.samples: mean(columns["majority"])} if "majority" in columns else {},
        reward=mean(columns["reward"]),
        rewards={
            name: mean(values[~np.isnan(values)], share=False)
            for name, values in given.items()
            if not np.isnan(values).all()
        },
        response_length=mean(columns["response_length"], share=False),
        truncated=mean(columns["truncated"]),
        levels={
            name: LevelResult(
                accuracy=mean(columns["pass@1"][levels == name]), problems=int((levels == name).sum())
            )
            for name in names
        },
        grader_errors=count("grader_errors"),
        infrastructure_errors=count("infrastructure_errors"),
        problem_count=len(examples),
        sample_count=int(columns["samples"].sum()),
        confidence=plan.confidence,
        problems=problems,
    )


def _level_order(level: str) -> tuple[float, str]:
    """Numbers by value, then names by alphabet."""
    return (float(level), "") if level.isdecimal() else (float("inf"), level)
