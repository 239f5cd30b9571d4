"""One reinforcement-learning iteration as a Lightning training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from pipo.callbacks.base import IterationStats, RolloutCallback
from pipo.metrics import IterationMetrics
from pipo.modules.batching import idle_micro_batch, micro_batches, mini_batches, pack, row_groups
from pipo.modules.distributed import all_reduce_max, all_reduce_sum, derive_seed, world
from pipo.modules.functional.aggregation import denominator
from pipo.modules.objectives.base import MicroBatch, Objective
from pipo.modules.policy import Policy
from pipo.modules.reference import frozen_copy
from pipo.records import Annotations, PolicyBatch, PromptBatch, Rollouts
from pipo.rollout.collector import Collector
from pipo.rollout.engine import RolloutEngine

# Distinguishes the sampler's use of the run's seed from the shuffling's.
_ROLLOUT = 2


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and what happens around its steps.

    Attributes:
        learning_rate: of every update; constant after the warm-up.
        beta1: AdamW's first-moment decay.
        beta2: AdamW's second-moment decay.
        weight_decay: decoupled weight decay.
        max_grad_norm: gradients are scaled down to this global norm.
        warmup_iterations: the rate rises linearly over so many iterations; 0 for none.
    """

    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float
    max_grad_norm: float
    warmup_iterations: int

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, got {self.max_grad_norm}")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How a batch is cut.

    Attributes:
        mini_batch: responses per optimiser step, over all ranks.
        tokens_per_micro_batch: most padded tokens of one forward and backward pass on one rank.
    """

    mini_batch: int
    tokens_per_micro_batch: int

    def __post_init__(self) -> None:
        if self.mini_batch < 1:
            raise ValueError(f"mini_batch must be >= 1, got {self.mini_batch}")
        if self.tokens_per_micro_batch < 1:
            raise ValueError(f"tokens_per_micro_batch must be >= 1, got {self.tokens_per_micro_batch}")


class PolicyModule(pl.LightningModule):
    """Samples, grades, lets the callbacks act on the rollouts, and updates the policy.

    Args:
        load_policy: makes the policy; called once per process, after the strategy is set up.
        make_engine: makes the rollout engine for a policy.
        collector: samples and grades.
        objective: the algorithm.
        optimizer: AdamW's numbers.
        batching: how a batch is cut.
        seed: the run's seed.
    """

    policy: Policy
    engine: RolloutEngine

    def __init__(
        self,
        *,
        load_policy: Callable[[], Policy],
        make_engine: Callable[[Policy], RolloutEngine],
        collector: Collector,
        objective: Objective,
        optimizer: OptimizerConfig,
        batching: BatchConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._load_policy, self._make_engine = load_policy, make_engine
        self.collector, self.objective = collector, objective
        self.optimizer_config, self.batching, self.seed = optimizer, batching, seed
        self.metrics = IterationMetrics()
        #: Metrics of the newest iteration; callbacks may add to it until ``IterationLog`` writes it.
        self.row: dict[str, float] = {}
        self._configured = False

    # ------------------------------------------------------------------ set-up

    def configure_model(self) -> None:
        """Load the policy, the engine on it, and the reference if the objective asks for one."""
        if self._configured:
            return
        self._configured = True
        self.policy = self._load_policy()
        self.engine = self._make_engine(self.policy)
        # Not registered as a submodule: neither checkpoints nor the optimiser should see it.
        reference = frozen_copy(self.policy) if self.objective.needs_reference else None
        self.__dict__["reference"] = reference

    def on_fit_start(self) -> None:
        """Unregistered modules are not moved by Lightning."""
        if self.__dict__["reference"] is not None:
            self.__dict__["reference"].to(self.device)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on the policy, with a schedule that counts iterations."""
        config = self.optimizer_config
        optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )
        warmup = max(1, config.warmup_iterations)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    # ------------------------------------------------------------------ one iteration

    def training_step(self, prompts: PromptBatch, iteration: int) -> None:
        """Sample, grade, prepare, let callbacks act, update, synchronise, log."""
        started = time.perf_counter()
        seed = derive_seed(self.seed, _ROLLOUT, iteration, world()[0])
        rollouts = self.collector.collect(self.engine, prompts, seed, self.metrics)
        stats = IterationStats(iteration=iteration, mean_reward=self._mean_reward(rollouts))
        with self.metrics.timer("annotate"):
            batch = self.objective.prepare(rollouts, self._annotate(rollouts))
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RolloutCallback):
                callback.on_rollouts_ready(self.trainer, self, rollouts, batch, stats)
        with self.metrics.timer("update"):
            self.policy_update(batch, prefix="policy")
        with self.metrics.timer("sync"):
            self.engine.sync_weights(self.policy.named_parameters())
        cast(torch.optim.lr_scheduler.LRScheduler, self.lr_schedulers()).step()
        self.row = self._summarise(rollouts, time.perf_counter() - started)

    def policy_update(
        self,
        batch: PolicyBatch,
        *,
        prefix: str,
        lr_scale: float = 1.0,
        mini_batch: int | None = None,
    ) -> None:
        """Train on a batch: the only place that runs backward, clips and steps.

        Args:
            batch: rows with their advantages.
            prefix: metric names start with this.
            lr_scale: factor on the learning rate, for this update only.
            mini_batch: responses per optimiser step over all ranks; None for the run's own.
        """
        optimizer = cast(LightningOptimizer, self.optimizers())
        groups = optimizer.param_groups
        rates = [group["lr"] for group in groups]
        self.metrics.add(f"{prefix}/lr", rates[0] * lr_scale)
        size = max(1, (mini_batch or self.batching.mini_batch) // world()[1])
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * lr_scale
        for rows in mini_batches(len(batch), size):
            self._optimizer_step(optimizer, batch, rows, prefix)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def _optimizer_step(
        self, optimizer: LightningOptimizer, batch: PolicyBatch, rows: Tensor, prefix: str
    ) -> None:
        """Accumulate the gradient of one mini-batch and step."""
        total = self.sum_over_ranks(denominator(batch.response_mask[rows], self.objective.aggregation))
        work = rows[batch.contributing_rows()[rows]]
        micros = micro_batches(batch, work, self.batching.tokens_per_micro_batch)
        # Collectives inside backward need the same number of passes on every rank, and at least one
        # leaves zeros rather than no gradients, so that AdamW sees every parameter.
        passes = max(1, all_reduce_max(len(micros), self.device))
        micros += [idle_micro_batch(batch)] * (passes - len(micros))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        loss_sum = torch.zeros((), dtype=torch.float64)
        for index, micro in enumerate(micros):
            with self._gradient_sync(last=index + 1 == len(micros)):
                loss_sum += self._backward(micro.to(self.device), total.item(), prefix)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.optimizer_config.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of the {prefix} update is {norm.item()} (loss {loss_sum.item()}); "
                "the weights are as they were before this step"
            )
        optimizer.step()
        optimizer.zero_grad()
        self.metrics.add(f"{prefix}/grad_norm", norm.detach().cpu().double())
        # The loss is a sum of shares: ranks add up, optimiser steps average.
        self.metrics.add(f"{prefix}/loss", loss_sum * world()[1])
        self.metrics.add(f"{prefix}/trained_rows", len(work) / len(rows))

    def _backward(self, micro: MicroBatch, total: float, prefix: str) -> Tensor:
        """Forward and backward of one micro-batch; returns its share of the loss."""
        flat = self.policy(micro.input_ids, micro.sequence_mask, self.collector.sampling.temperature)
        empty = torch.zeros(micro.response_mask.shape, dtype=flat.dtype, device=flat.device)
        loss = self.objective.loss(empty.masked_scatter(micro.response_mask, flat), micro, total)
        # Strategies average gradients over ranks; the shares are meant to be summed.
        self.manual_backward(loss.value * world()[1])
        for name, (value, count) in loss.metrics.items():
            self.metrics.add(f"{prefix}/{name}", value.double().cpu(), count.cpu())
        return loss.value.detach().double().cpu()

    # ------------------------------------------------------------------ pieces

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Sum of a CPU tensor over all ranks."""
        return all_reduce_sum(value, self.device)

    def _gradient_sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged between ranks only with the last micro-batch."""
        strategy = self.trainer.strategy
        if last or not isinstance(strategy, ParallelStrategy):
            return nullcontext()
        return strategy.block_backward_sync()

    def _mean_reward(self, rollouts: Rollouts) -> float:
        """mu_t: mean verifier reward over all sampled responses of all ranks."""
        sums = torch.tensor([rollouts.reward_sum, float(rollouts.reward_count)], dtype=torch.float64)
        total, count = self.sum_over_ranks(sums).tolist()
        return total / count

    def _annotate(self, rollouts: Rollouts) -> Annotations:
        """Log-probabilities of the behaviour policy and the reference, before any weight moves."""
        sampled = rollouts.completions.logprobs
        old = sampled if self.engine.shares_weights else self._score(self.policy, rollouts)
        mask = rollouts.completions.response_mask
        gap = ((old - sampled) * mask).abs()
        self.metrics.add("rollout/logprob_diff", gap.sum(), mask.sum())
        reference = self.__dict__["reference"]
        return Annotations(
            old_logprobs=old, ref_logprobs=None if reference is None else self._score(reference, rollouts)
        )

    @torch.no_grad()
    def _score(self, model: Policy, rollouts: Rollouts) -> Tensor:
        """float32 [N, R] log-probabilities of the responses under a model."""
        completions, group_size = rollouts.completions, rollouts.group_size
        prompts, lengths = rollouts.prompts.prompt_ids, completions.lengths
        out = torch.zeros_like(completions.logprobs)
        everything = torch.arange(len(lengths))
        budget = self.batching.tokens_per_micro_batch
        for rows in row_groups(prompts, group_size, lengths, everything, budget):
            ids, mask = pack(prompts, group_size, completions.response_ids, lengths, rows)
            flat = model(ids.to(self.device), mask.to(self.device), self.collector.sampling.temperature)
            select = torch.tensor(rows)
            target = completions.response_mask[select]
            out[select] = out[select].masked_scatter(target, flat.cpu())
        return out

    def _summarise(self, rollouts: Rollouts, seconds: float) -> dict[str, float]:
        """The iteration's metrics over all ranks, in one reduction."""
        tokens = rollouts.completions.response_mask.sum()
        ranks = world()[1]
        self.metrics.add("time/iteration", seconds)
        self.metrics.add("train/tokens_per_second", tokens * ranks / seconds)
        means = self.metrics.reduce(self.sum_over_ranks)
        means["rollout/tokens_per_second"] = float(tokens * ranks) / means["time/generate"]
        return means
