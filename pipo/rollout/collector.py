"""Collect rollouts: sample responses, grade them, and filter groups (DAPO's dynamic sampling)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipo.distributed.metrics import IterationMetrics
from pipo.distributed.seeds import numbered_seed
from pipo.records.rollouts import Completions, IterationPrompts, PromptBatch, Rollouts, mixed_groups, rows_of
from pipo.rollout.engine import RolloutEngine
from pipo.rollout.graded import sample_and_grade
from pipo.rollout.options import SamplingParams
from pipo.rollout.reward_terms import GradedResponses, RewardTerm, reward_terms
from pipo.rollout.turns import Episode
from pipo.tasks.base import Task
from pipo.tasks.prompts import Decode, EncodeReply

log = logging.getLogger(__name__)


class Collector:
    """Asks the engine for responses and the task for verdicts.

    Args:
        task: grades the responses.
        decode: response token ids to text.
        encode_reply: what an environment said to token ids.
        group_size: responses per prompt.
        sampling: how tokens are drawn.
        dynamic_sampling_rounds: drop groups whose verifier rewards are all equal and draw more prompts until
            the batch is full, in at most so many rounds; 0 trains on every group.
        terms: what is added to the rewards for training, by name.
    """

    def __init__(
        self,
        *,
        task: Task,
        decode: Decode,
        encode_reply: EncodeReply,
        group_size: int,
        sampling: SamplingParams,
        dynamic_sampling_rounds: int,
        terms: Mapping[str, RewardTerm],
    ) -> None:
        self.task, self.decode, self.encode_reply = task, decode, encode_reply
        self.group_size, self.sampling, self.terms = group_size, sampling, terms
        self.dynamic_sampling_rounds = dynamic_sampling_rounds

    def collect(
        self,
        engine: RolloutEngine,
        prompts: IterationPrompts,
        seed: int,
        metrics: IterationMetrics,
        max_over_ranks: Callable[[int], int],
    ) -> Rollouts:
        """The batch of an iteration on this rank; adds rollout and reward metrics.

        With dynamic sampling the ranks draw the same number of rounds: all go on while one of them lacks
        groups. What is full is cut to size, what is not full after the last round is trained on as it is.
        """
        metrics.add("rollout/sampled_tokens", 0)  # counted once, however many rounds add to the sum
        rollouts = self._round(engine, prompts.first, seed, metrics)
        rounds = self.dynamic_sampling_rounds
        if rounds == 0:
            return rollouts
        wanted = len(prompts.first)
        parts = [_select(rollouts, mixed_groups(rollouts.rewards, rollouts.group_size))]
        drawn = 1
        while drawn < rounds and max_over_ranks(wanted - sum(len(part.prompts) for part in parts)) > 0:
            rollouts = self._round(engine, prompts.refill(drawn), numbered_seed(seed, drawn), metrics)
            parts.append(_select(rollouts, mixed_groups(rollouts.rewards, rollouts.group_size)))
            drawn += 1
        found = sum(len(part.prompts) for part in parts)
        if found < wanted:
            log.info("after %d rounds %d of %d groups vary; training on those", drawn, found, wanted)
        kept = _join([part for part in parts if len(part.prompts)] or [_stand_in(rollouts)])
        metrics.add("rollout/rounds", drawn)
        metrics.add("rollout/batch_filled", min(1.0, found / wanted))
        totals = {
            "reward_sum": sum(part.reward_sum for part in parts),
            "reward_count": sum(part.reward_count for part in parts),
            "varied_groups": found,
        }
        return replace(_select(kept, torch.arange(min(wanted, len(kept.prompts)))), **totals)

    def _round(
        self, engine: RolloutEngine, prompts: PromptBatch, seed: int, metrics: IterationMetrics
    ) -> Rollouts:
        """Sample and grade ``group_size`` responses per prompt."""
        graded = sample_and_grade(
            engine,
            self.task,
            prompts.examples,
            prompts.prompt_ids,
            group_size=self.group_size,
            sampling=self.sampling,
            seed=seed,
            decode=self.decode,
            encode_reply=self.encode_reply,
            timer=metrics.timer,
        )
        completions = graded.completions
        with metrics.timer("score"):
            rewards = torch.tensor([verdict.score for verdict in graded.verdicts], dtype=torch.float32)
            added = reward_terms(
                self.terms,
                GradedResponses(
                    examples=tuple(e for e in prompts.examples for _ in range(self.group_size)),
                    texts=graded.texts,
                    verdicts=graded.verdicts,
                    rewards=rewards,
                    lengths=completions.sampled_lengths,
                    finished=completions.finished,
                    group_size=self.group_size,
                ),
            )
        rollouts = Rollouts(
            prompts=prompts,
            completions=completions,
            texts=graded.texts,
            verdicts=graded.verdicts,
            rewards=rewards,
            shaping=sum(added.values(), torch.zeros_like(rewards)),
            group_size=self.group_size,
            reward_sum=float(rewards.double().sum()),
            reward_count=len(rewards),
            varied_groups=len(mixed_groups(rewards, self.group_size)),
            transcripts=graded.transcripts,
        )
        self._measure(rollouts, metrics)
        for name, values in added.items():
            metrics.add(f"train/reward_terms/{name}", values.sum(), len(values))
        if graded.episodes is not None:
            _measure_turns(graded.episodes, metrics)
        return rollouts

    def _measure(self, rollouts: Rollouts, metrics: IterationMetrics) -> None:
        """Metrics over all sampled responses, those that a filter will drop included."""
        count, lengths = len(rollouts.rewards), rollouts.completions.sampled_lengths
        metrics.add("train/reward", rollouts.rewards.sum(), count)
        metrics.add("train/accuracy", sum(verdict.solved for verdict in rollouts.verdicts), count)
        for name in self.task.reward_names:
            given = [(verdict.rewards or {}).get(name) for verdict in rollouts.verdicts]
            known = [value for value in given if value is not None]
            metrics.add(f"train/rewards/{name}", sum(known), len(known))
        metrics.add("train/response_length", lengths.sum(), count)
        machine = sum(verdict.infrastructure for verdict in rollouts.verdicts)
        errors = sum(verdict.error is not None for verdict in rollouts.verdicts)
        metrics.add("train/grader_errors", errors - machine, count)
        metrics.add("train/infrastructure_errors", machine, count)
        metrics.add("rollout/truncated", (~rollouts.completions.finished).sum(), count)
        metrics.add("rollout/sampled_tokens", lengths.sum(), 0)
        if self.terms:
            metrics.add("train/shaping", rollouts.shaping.sum(), count)
        if self.group_size > 1:
            groups = len(rollouts.prompts)
            metrics.add("rollout/zero_variance_groups", groups - rollouts.varied_groups, groups)


def _measure_turns(episodes: Sequence[Episode], metrics: IterationMetrics) -> None:
    """Metrics of what was said and called between the policy and its environments."""
    count, calls = len(episodes), sum(episode.tool_calls for episode in episodes)
    metrics.add("rollout/turns", sum(episode.turns for episode in episodes), count)
    metrics.add("rollout/user_tokens", sum(episode.user_tokens for episode in episodes), count)
    metrics.add("rollout/tool_tokens", sum(episode.tool_tokens for episode in episodes), count)
    metrics.add("rollout/tool_calls", calls, count)
    metrics.add("rollout/tool_errors", sum(episode.tool_errors for episode in episodes), calls)


def _select(rollouts: Rollouts, groups: Tensor) -> Rollouts:
    """Some groups of the rollouts; the reward sums still cover all that were sampled."""
    size = rollouts.group_size
    rows = rows_of(groups, size)
    chosen, picked = groups.tolist(), rows.tolist()
    return replace(
        rollouts,
        prompts=PromptBatch(
            examples=tuple(rollouts.prompts.examples[i] for i in chosen),
            prompt_ids=tuple(rollouts.prompts.prompt_ids[i] for i in chosen),
        ),
        completions=rollouts.completions.rows(rows),
        texts=tuple(rollouts.texts[i] for i in picked),
        verdicts=tuple(rollouts.verdicts[i] for i in picked),
        rewards=rollouts.rewards[rows],
        shaping=rollouts.shaping[rows],
        transcripts=None if rollouts.transcripts is None else tuple(rollouts.transcripts[i] for i in picked),
    )


def _stand_in(rollouts: Rollouts) -> Rollouts:
    """A group where none is left, because a batch is never empty: its responses have no token.

    So they teach nothing, and count in no denominator, which another rank's groups may share.
    """
    group = _select(rollouts, torch.tensor([0]))
    drawn = group.completions
    nothing = replace(
        drawn,
        response_mask=torch.zeros_like(drawn.response_mask),
        sampled=torch.zeros_like(drawn.sampled),
        logprobs=torch.zeros_like(drawn.logprobs),
    )
    return replace(group, completions=nothing, shaping=torch.zeros_like(group.shaping))


def _join(parts: Sequence[Rollouts]) -> Rollouts:
    """Put the groups of several rounds side by side."""
    return replace(
        parts[0],
        prompts=PromptBatch(
            examples=tuple(e for part in parts for e in part.prompts.examples),
            prompt_ids=tuple(ids for part in parts for ids in part.prompts.prompt_ids),
        ),
        completions=Completions.join([part.completions for part in parts]),
        texts=tuple(text for part in parts for text in part.texts),
        verdicts=tuple(verdict for part in parts for verdict in part.verdicts),
        rewards=torch.cat([part.rewards for part in parts]),
        shaping=torch.cat([part.shaping for part in parts]),
        transcripts=None
        if parts[0].transcripts is None
        else tuple(each for part in parts for each in part.transcripts or ()),
    )
