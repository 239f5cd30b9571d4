"""Sampling and grading: prompts in, graded rollouts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pipo.metrics import IterationMetrics
from pipo.records import PromptBatch, Rollouts
from pipo.rollout.engine import RolloutEngine, SamplingParams
from pipo.tasks.base import Task


class Collector:
    """Asks the engine for responses and the task for verdicts.

    Args:
        task: grades the responses.
        decode: response token ids to text.
        group_size: responses per prompt.
        sampling: how tokens are drawn.
    """

    def __init__(
        self,
        *,
        task: Task,
        decode: Callable[[Sequence[int]], str],
        group_size: int,
        sampling: SamplingParams,
    ) -> None:
        self.task, self.decode = task, decode
        self.group_size, self.sampling = group_size, sampling

    def collect(
        self, engine: RolloutEngine, prompts: PromptBatch, seed: int, metrics: IterationMetrics
    ) -> Rollouts:
        """Sample and grade ``group_size`` responses per prompt; adds rollout and reward metrics."""
        with metrics.timer("generate"):
            completions = engine.generate(prompts.prompt_ids, self.group_size, self.sampling, seed)
        with metrics.timer("score"):
            lengths: list[int] = completions.lengths.tolist()
            texts = tuple(
                self.decode(row[:length])
                for row, length in zip(completions.response_ids.tolist(), lengths, strict=True)
            )
            asked = [example for example in prompts.examples for _ in range(self.group_size)]
            verdicts = tuple(self.task.score_batch(asked, texts))
            rewards = torch.tensor([verdict.score for verdict in verdicts], dtype=torch.float32)
        count = len(rewards)
        groups = rewards.view(-1, self.group_size)
        metrics.add("train/reward", rewards.sum(), count)
        metrics.add("train/accuracy", (rewards == 1).sum(), count)
        metrics.add("train/response_length", sum(lengths), count)
        metrics.add("train/grader_errors", sum(v.error is not None for v in verdicts), count)
        metrics.add("rollout/truncated", (~completions.finished).sum(), count)
        alike = (groups == groups[:, :1]).all(dim=1)
        metrics.add("rollout/zero_variance_groups", alike.sum(), len(groups))
        return Rollouts(
            prompts=prompts,
            completions=completions,
            texts=texts,
            verdicts=verdicts,
            rewards=rewards,
            group_size=self.group_size,
            reward_sum=float(rewards.double().sum()),
            reward_count=count,
        )
