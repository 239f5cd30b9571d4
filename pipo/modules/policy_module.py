"""Training step: one reinforcement-learning iteration as a ``LightningModule``, and ``policy_update``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from pipo.distributed.collectives import world
from pipo.distributed.metrics import IterationMetrics
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.errors import ConfigError, Diverged
from pipo.functional.advantages import moments
from pipo.functional.importance import truncated_ratio
from pipo.functional.value import clipped_value_loss, explained_variance
from pipo.lm.options import Sharding
from pipo.lm.policy import Policy
from pipo.lm.sharding import clip_gradients, reshard, sync_gradients
from pipo.modules.annotation import unflatten
from pipo.modules.annotator import Annotator, Privileged
from pipo.modules.balance import balanced_micro_batches
from pipo.modules.batching import idle_micro_batch, mini_batches
from pipo.modules.hooks import IterationStats, RolloutCallback, SkippedStep
from pipo.modules.model_holder import ModelHolder
from pipo.modules.objectives.base import Loss, MicroBatch, Objective, on_cpu
from pipo.modules.options import BatchConfig, OptimizerConfig, Place
from pipo.modules.transition import look_back
from pipo.records.batches import PolicyBatch
from pipo.records.correction import ImportanceCorrection
from pipo.records.cut import Cut
from pipo.records.rollouts import IterationPrompts, Rollouts
from pipo.rollout.collector import Collector
from pipo.rollout.engine import RolloutEngine

_ZERO = torch.zeros((), dtype=torch.float64)


class PolicyModule(ModelHolder):
    """Samples, grades, lets the callbacks act on the rollouts, and updates the policy.

    Args:
        collector: samples and grades.
        privileged: see :class:`~pipo.modules.annotator.Annotator`, like the next.
        importance: weights for the sampler's distance from the policy.
        cut: what of the distribution the policy is; None for all of it, whatever is sampled.
        objective: the algorithm.
        optimizer: AdamW's numbers.
        batching: how a batch is cut.
        seed: the run's seed.
        load_policy: see :class:`~pipo.modules.model_holder.ModelHolder`, like the next four.
        make_engine: makes the rollout engine for a policy.
        compute_dtype: dtype of matrix products.
        sharding: how weights are sharded.
        look_back: where the weights of the last iteration are kept.
    """

    def __init__(
        self,
        *,
        load_policy: Callable[[], Policy],
        make_engine: Callable[[Policy], RolloutEngine],
        collector: Collector,
        privileged: Privileged,
        objective: Objective,
        importance: ImportanceCorrection,
        optimizer: OptimizerConfig,
        batching: BatchConfig,
        seed: int,
        compute_dtype: torch.dtype | None = None,
        sharding: Sharding | None = None,
        look_back: Place | None = None,
        cut: Cut | None = None,
    ) -> None:
        super().__init__(
            load_policy=load_policy,
            make_engine=make_engine,
            objective=objective,
            optimizer=optimizer,
            compute_dtype=compute_dtype,
            sharding=sharding,
            look_back=look_back,
        )
        self.automatic_optimization = False
        self.collector, self.batching, self.seed = collector, batching, seed
        self.metrics = IterationMetrics()
        self._annotator = Annotator(
            self,
            privileged=privileged,
            importance=importance,
            temperature=collector.sampling.temperature,
            cut=cut,
            token_budget=batching.tokens_per_micro_batch,
        )
        #: Metrics of the newest iteration; callbacks may add to it until ``IterationLog`` writes it.
        self.row: dict[str, float] = {}
        #: Optimiser steps that were skipped since the last that was made.
        self.skipped_in_a_row = 0
        #: Factor on the learning rate of every update of the policy; a callback may move it.
        self.rate_factor = 1.0
        #: Log-probabilities that the policy, as it is now, was found to give; None once it has moved.
        self._present: Tensor | None = None

    def on_fit_start(self) -> None:
        """Refuse what ranks cannot share, before anything is sampled."""
        self.own_mini_batch(self.batching.mini_batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the objective remembers."""
        checkpoint["objective"] = self.objective.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Hand it back."""
        self.objective.load_state_dict(checkpoint["objective"])

    # ------------------------------------------------------------------ one iteration

    def training_step(self, prompts: IterationPrompts, iteration: int) -> None:
        """Sample, grade, prepare, let callbacks act, update, synchronise, log."""
        started = time.perf_counter()
        seed = derive_seed(self.seed, Purpose.ROLLOUT, iteration, world()[0])
        with self.sampling():
            rollouts = self.collector.collect(self.engine, prompts, seed, self.metrics, self.max_over_ranks)
        self.engine.sleep()
        critic = self.objective.critic
        with self.metrics.timer("annotate"):
            batch = self.objective.prepare(
                rollouts, self._annotator.annotate(rollouts, self.metrics), self.sum_over_ranks
            )
        # The sampler's own are exact but for 1e-6 and stand as they are.
        self._present = None if self.samples_as_it_trains else batch.old_logprobs
        mean_reward = self._mean_reward(rollouts)
        improvement, undone = look_back(
            self,
            self._annotator,
            rollouts,
            batch,
            self.metrics,
            lambda found: [
                callback.on_look_back(self.trainer, self, found, mean_reward)
                for callback in self._rollout_callbacks()
            ],
        )
        if undone:
            self._present = None
        stats = IterationStats(
            iteration=iteration,
            mean_reward=mean_reward,
            improvement=improvement,
            undone=undone,
            policy_learns=not undone and (critic is None or iteration >= critic.warmup_iterations),
        )
        for callback in self._rollout_callbacks():
            callback.on_rollouts_ready(self.trainer, self, rollouts, batch, stats)
        if stats.policy_learns:
            with self.metrics.timer("update"):
                self.policy_update(batch, prefix="policy")
        if critic is not None and not undone:
            with self.metrics.timer("critic"):
                self._critic_update(batch, critic.value_clip)
        with self.metrics.timer("sync"):
            self.engine.sync_weights(self.policy.named_parameters())
            self.engine.wake()
        schedules = self.lr_schedulers()
        for schedule in schedules if isinstance(schedules, list) else [schedules]:
            cast(torch.optim.lr_scheduler.LRScheduler, schedule).step()
        self.row = self._summarise(time.perf_counter() - started)

    def policy_update(
        self,
        batch: PolicyBatch,
        *,
        prefix: str,
        lr_scale: float = 1.0,
        mini_batch: int | None = None,
    ) -> int:
        """Train on a batch: the only place that runs backward, clips and steps.

        Args:
            batch: rows with their advantages.
            prefix: metric names start with this.
            lr_scale: factor on the learning rate, for this update only.
            mini_batch: responses per optimiser step over all ranks; None for the run's own.

        Returns:
            Optimiser steps that were made; those whose numbers were not finite are not.
        """
        optimizer = self.optimizer(0)
        groups = optimizer.param_groups
        rates = [group["lr"] for group in groups]
        lr_scale *= self.rate_factor
        self.metrics.add(f"{prefix}/lr", rates[0] * lr_scale)
        size = self.own_mini_batch(mini_batch or self.batching.mini_batch)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * lr_scale
        contributing, made = batch.contributing_rows(), []
        for rows in self._mini_batches(len(batch), size):
            loss = partial(self._policy_loss, batch.old_logprobs is self._present)
            made.append(self._optimizer_step(optimizer, batch, rows, contributing[rows], prefix, loss))
            if made[-1]:
                self._present = None
        self.metrics.add(f"{prefix}/skipped_steps", made.count(False))
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        if self.before is not None and any(made):
            self.before.moved.fill_(True)
        return made.count(True)

    def _critic_update(self, batch: PolicyBatch, value_clip: float) -> None:
        """Train the critic on the same mini-batches."""
        assert batch.value_targets is not None
        targets, mask = batch.value_targets, batch.sampled
        errors = moments(targets.returns - targets.old_values, mask)
        explained = explained_variance(
            self.sum_over_ranks(moments(targets.returns, mask)), self.sum_over_ranks(errors)
        )
        if not math.isnan(explained):
            self.metrics.add("value/explained_variance", explained)
        size = self.own_mini_batch(self.batching.mini_batch)
        loss = partial(self._value_loss, value_clip)
        made = []
        for rows in self._mini_batches(len(batch), size):
            everything = torch.ones(len(rows), dtype=torch.bool)
            made.append(self._optimizer_step(self.optimizer(1), batch, rows, everything, "value", loss))
        self.metrics.add("value/skipped_steps", made.count(False))

    def own_mini_batch(self, size: int) -> int:
        """This rank's share of a mini-batch."""
        ranks = world()[1]
        if size % ranks:
            raise ConfigError(
                f"a mini-batch of {size} responses cannot be shared evenly by {ranks} processes"
            )
        return size // ranks

    def _mini_batches(self, rows: int, size: int) -> list[Tensor]:
        """Row indices of each optimiser step; every rank makes the same number of steps."""
        own = mini_batches(rows, size)
        steps = self.max_over_ranks(len(own))
        return own + [torch.empty(0, dtype=torch.int64)] * (steps - len(own))

    def _optimizer_step(
        self,
        optimizer: LightningOptimizer,
        batch: PolicyBatch,
        rows: Tensor,
        contributing: Tensor,
        prefix: str,
        loss_of: Callable[[MicroBatch, float], Loss],
    ) -> bool:
        """Accumulate the gradient of one mini-batch and step; returns False when the step was skipped."""
        own = self.objective.denominator(batch.loss_mask()[rows])
        # Nothing to learn from on any rank leaves a zero loss over whatever denominator.
        total = max(1.0, self.sum_over_ranks(own).item())
        work = rows[contributing]
        micros = balanced_micro_batches(
            batch, work, self.batching.tokens_per_micro_batch, self.device, self.max_over_ranks
        )
        # Collectives inside backward need the same number of passes on every rank, and at least one
        # leaves zeros rather than no gradients, so that AdamW sees every parameter.
        passes = max(1, self.max_over_ranks(len(micros)))
        micros += [idle_micro_batch(batch)] * (passes - len(micros))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        losses: list[Loss] = []
        for index, micro in enumerate(micros):
            with self._gradient_sync(last=index + 1 == len(micros)):
                losses.append(self._backward(loss_of(micro.to(self.device), total)))
        for model in self.models():
            reshard(model)
        norm = clip_gradients(parameters, self.optimizer_config.max_grad_norm)
        losses, norm = on_cpu(losses, norm.to(self.device))
        # Shares of micro-batches and ranks add up. A norm that one rank alone finds bad is bad for all.
        loss, bad = self.sum_over_ranks(
            torch.stack([sum((each.value for each in losses), start=_ZERO), (~norm.isfinite()).double()])
        )
        if bad or not loss.isfinite():
            optimizer.zero_grad()
            self._refuse(batch, rows, prefix, loss.item(), norm.item())
            return False
        optimizer.step()
        optimizer.zero_grad()
        self.skipped_in_a_row = 0
        for each in losses:
            for name, (value, count) in each.metrics.items():
                self.metrics.add(f"{prefix}/{name}", value, count)
        self.metrics.add(f"{prefix}/grad_norm", norm)
        self.metrics.add(f"{prefix}/loss", loss)
        self.metrics.add(f"{prefix}/trained_rows", len(work), len(rows))
        return True

    def _policy_loss(self, unmoved: bool, micro: MicroBatch, total: float) -> Loss:
        """Forward pass of the policy, and of its teacher when the batch carries one.

        Args:
            unmoved: the policy is the one that gave ``old_logprobs``. Its ratio is 1; what another grouping
                of the rows rounds differently would pass for a move, and be clipped.
            micro: the rows.
            total: denominator of the whole optimiser step.
        """
        mask, temperature = micro.sampled, self.collector.sampling.temperature
        if micro.teacher_rows is None:
            logprobs = unflatten(self.policy(micro.rows, temperature), mask)
            micro = replace(micro, old_logprobs=logprobs.detach()) if unmoved else micro
            return self.objective.loss(logprobs, micro, total)
        distillation = self.objective.distillation
        assert distillation is not None
        target = self.teacher.distillation_target(micro.teacher_rows, distillation.form)
        if distillation.ratio_cap is None or unmoved:
            divergence = self.policy(micro.rows, temperature, target)
            return self.objective.loss(unflatten(divergence, mask), micro, total)
        divergence, logprobs = self.policy(micro.rows, temperature, target, and_logprobs=True)
        ratio = truncated_ratio(unflatten(logprobs, mask), micro.old_logprobs, distillation.ratio_cap)
        weight = ratio if micro.weight is None else micro.weight * ratio
        return self.objective.loss(unflatten(divergence, mask), replace(micro, weight=weight), total)

    def _value_loss(self, value_clip: float, micro: MicroBatch, total: float) -> Loss:
        """Forward pass of the critic."""
        assert micro.value_targets is not None
        values = unflatten(self.critic(micro.rows), micro.sampled)
        targets = micro.value_targets
        per_token = clipped_value_loss(values, targets.old_values, targets.returns, value_clip)
        return Loss(value=self.objective.aggregate(per_token, micro.sampled, total), metrics={})

    def _backward(self, loss: Loss) -> Loss:
        """Backward pass of one micro-batch; returns its share of the loss and its metrics, without graph."""
        # Strategies average gradients over ranks; the shares are meant to be summed.
        self.manual_backward(loss.value * world()[1])
        return loss.detached()

    def _refuse(self, batch: PolicyBatch, rows: Tensor, prefix: str, loss: float, norm: float) -> None:
        """Count a step that is not made, tell the callbacks, and give up after too many in a row."""
        self.skipped_in_a_row += 1
        iteration = self.trainer.fit_loop.total_batch_idx
        step = SkippedStep(
            iteration=iteration,
            update=prefix,
            loss=loss,
            grad_norm=norm,
            in_a_row=self.skipped_in_a_row,
        )
        for callback in self._rollout_callbacks():
            callback.on_step_skipped(self.trainer, self, batch, rows, step)
        if self.skipped_in_a_row >= self.optimizer_config.max_skipped_steps:
            raise Diverged(
                f"{self.skipped_in_a_row} optimiser steps in a row met numbers that are not finite, "
                f"the last in the {prefix} update of iteration {iteration} (loss {loss:g}, gradient norm "
                f"{norm:g}). None of them was made, so the weights are sound; the run folder has the first "
                "of these batches as bad_batch_*.pt. Often the learning rate is too high or the precision "
                "too low (recipe.learning_rate, strategy.compute_dtype)"
            )

    # ------------------------------------------------------------------ pieces

    @property
    def samples_as_it_trains(self) -> bool:
        """As of the models; but after a cut the trainer scores, and finds out what was kept."""
        return super().samples_as_it_trains and not self.collector.sampling.cuts

    def _rollout_callbacks(self) -> list[RolloutCallback]:
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, RolloutCallback)]

    def _gradient_sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged between ranks with the last micro-batch, those of shards maybe with all."""
        for model in self.models():
            sync_gradients(model, wanted=last or self.exchanges_each_pass)
        strategy = self.trainer.strategy
        if last or not isinstance(strategy, DDPStrategy):
            return nullcontext()
        return strategy.block_backward_sync()

    def _mean_reward(self, rollouts: Rollouts) -> float:
        """mu_t: mean verifier reward over all sampled responses of all ranks."""
        sums = torch.tensor([rollouts.reward_sum, float(rollouts.reward_count)], dtype=torch.float64)
        total, count = self.sum_over_ranks(sums).tolist()
        return total / count

    def _summarise(self, seconds: float) -> dict[str, float]:
        """The iteration's metrics over all ranks, in one reduction."""
        self.metrics.add("time/iteration", seconds)
        means = self.metrics.reduce(self.sum_over_ranks)
        # Counted per rank, over all rounds of sampling.
        tokens = means.pop("rollout/sampled_tokens") * world()[1]
        means["train/tokens_per_second"] = tokens / means["time/iteration"]
        means["rollout/tokens_per_second"] = tokens / means["time/generate"]
        return means
