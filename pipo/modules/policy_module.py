"""One reinforcement-learning iteration as a Lightning training step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from pipo.callbacks.base import IterationStats, RolloutCallback, SkippedStep
from pipo.errors import ConfigError, RunFailed
from pipo.metrics import IterationMetrics
from pipo.modules.annotation import score_responses, unflatten
from pipo.modules.batching import idle_micro_batch, micro_batches, mini_batches
from pipo.modules.critic import Critic
from pipo.modules.distributed import Number, all_reduce_max, all_reduce_sum, derive_seed, world
from pipo.modules.functional.advantages import moments
from pipo.modules.functional.importance import ImportanceCorrection, importance_weights
from pipo.modules.functional.value import clipped_value_loss, explained_variance
from pipo.modules.objectives.base import Distillation, Loss, MicroBatch, Objective
from pipo.modules.options import BatchConfig, OptimizerConfig
from pipo.modules.policy import Policy
from pipo.modules.reference import frozen
from pipo.modules.sharding import (
    Sharding,
    clip_gradients,
    gathered,
    is_sharded,
    reshard,
    shard,
    sync_gradients,
)
from pipo.records import Annotations, IterationPrompts, PolicyBatch, Rollouts, TeacherAnnotation, TokenIds
from pipo.rollout.collector import Collector
from pipo.rollout.engine import RolloutEngine

Model = TypeVar("Model", Policy, Critic)

# Distinguishes the sampler's use of the run's seed from the shuffling's.
_ROLLOUT = 2
_ZERO = torch.zeros((), dtype=torch.float64)


class PolicyModule(pl.LightningModule):
    """Samples, grades, lets the callbacks act on the rollouts, and updates the policy.

    Args:
        load_policy: makes the policy; called once per model and process, after the strategy is set up.
        make_engine: makes the rollout engine for a policy.
        collector: samples and grades.
        privileged: the self-teacher's prompts for graded responses; used by objectives that distil.
        objective: the algorithm.
        importance: weights for the sampler's distance from the policy.
        optimizer: AdamW's numbers.
        batching: how a batch is cut.
        seed: the run's seed.
        compute_dtype: dtype of matrix products, everywhere; None for that of the weights.
        sharding: how weights are sharded by a strategy that does; None for whole weights.
    """

    policy: Policy
    critic: Critic
    teacher: Policy
    engine: RolloutEngine

    def __init__(
        self,
        *,
        load_policy: Callable[[], Policy],
        make_engine: Callable[[Policy], RolloutEngine],
        collector: Collector,
        privileged: Callable[[Rollouts, Distillation], tuple[TokenIds | None, ...]],
        objective: Objective,
        importance: ImportanceCorrection,
        optimizer: OptimizerConfig,
        batching: BatchConfig,
        seed: int,
        compute_dtype: torch.dtype | None = None,
        sharding: Sharding | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.compute_dtype, self.sharding = compute_dtype, sharding
        self._load_policy, self._make_engine = load_policy, make_engine
        self.collector, self.objective, self._privileged = collector, objective, privileged
        self.importance, self.seed = importance, seed
        self.optimizer_config, self.batching = optimizer, batching
        self.metrics = IterationMetrics()
        #: Metrics of the newest iteration; callbacks may add to it until ``IterationLog`` writes it.
        self.row: dict[str, float] = {}
        #: Optimiser steps that were skipped since the last that was made.
        self.skipped_in_a_row = 0
        self._configured = False

    # ------------------------------------------------------------------ set-up

    def configure_model(self) -> None:
        """Load the policy, the engine on it, and the further models that the objective asks for."""
        if self._configured:
            return
        self._configured = True
        self.policy = self._sharded(self._load())
        self.engine = self._make_engine(self.policy)
        # Each model is loaded anew and sharded before the next, so that one whole model is held at a time.
        if self.objective.critic is not None:
            self.critic = self._sharded(Critic(self._load()))
        # Not registered as a submodule: checkpoints need not hold what can be loaded again.
        reference = self._sharded(frozen(self._load())) if self.objective.needs_reference else None
        self.__dict__["reference"] = reference
        distillation = self.objective.distillation
        if distillation is not None and distillation.teacher_average < 1:
            self.teacher = self._sharded(frozen(self._load()))
        else:
            self.__dict__["teacher"] = self.policy  # the same module, which is registered already

    def _load(self) -> Policy:
        """The policy as the run finds it."""
        policy = self._load_policy()
        if self.device_mesh is None:
            policy.compute_dtype = self.compute_dtype
        return policy  # the layers of a sharded model get their weights in the dtype in which they compute

    def _sharded(self, model: Model) -> Model:
        """The model, cut over the processes by a strategy that does so."""
        if self.device_mesh is not None:
            assert self.sharding is not None
            shard(model, self.device_mesh["data_parallel"], self.sharding, self.compute_dtype)
        return model

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where this process computes; offloaded weights are elsewhere."""
        return super().device if self._trainer is None else self._trainer.strategy.root_device

    def on_fit_start(self) -> None:
        """Refuse what ranks cannot share, and move the model that Lightning does not know."""
        self.own_mini_batch(self.batching.mini_batch)
        reference = self.__dict__["reference"]
        if reference is not None and not is_sharded(reference):
            reference.to(self.device)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Around any use of the engine; every rank enters, and may then generate as often as it likes."""
        with gathered(self.policy) if self.engine.shares_weights else nullcontext():
            yield

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on the policy and, apart from it, on the critic; the schedules count iterations."""
        optimizers = [self._adamw(self.policy, 1.0)]
        if self.objective.critic is not None:
            optimizers.append(self._adamw(self.critic, self.objective.critic.learning_rate_scale))
        warmup = max(1, self.optimizer_config.warmup_iterations)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(each, lambda done: min(1.0, (done + 1) / warmup))
            for each in optimizers
        ]
        return optimizers, schedules

    def _adamw(self, model: torch.nn.Module, scale: float) -> torch.optim.AdamW:
        config = self.optimizer_config
        return torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate * scale,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def _optimizer(self, which: int) -> LightningOptimizer:
        """The policy's (0) or the critic's (1) optimiser; Lightning unwraps a list of one."""
        found = self.optimizers()
        return cast(LightningOptimizer, found[which] if isinstance(found, list) else found)

    def teardown(self, stage: str) -> None:
        """The engine ends with the training that it served."""
        self.engine.close()

    # ------------------------------------------------------------------ one iteration

    def training_step(self, prompts: IterationPrompts, iteration: int) -> None:
        """Sample, grade, prepare, let callbacks act, update, synchronise, log."""
        started = time.perf_counter()
        seed = derive_seed(self.seed, _ROLLOUT, iteration, world()[0])
        with self.sampling():
            rollouts = self.collector.collect(self.engine, prompts, seed, self.metrics, self.max_over_ranks)
        self.engine.sleep()
        critic = self.objective.critic
        stats = IterationStats(
            iteration=iteration,
            mean_reward=self._mean_reward(rollouts),
            policy_learns=critic is None or iteration >= critic.warmup_iterations,
        )
        with self.metrics.timer("annotate"):
            batch = self.objective.prepare(rollouts, self._annotate(rollouts), self.sum_over_ranks)
        for callback in self._rollout_callbacks():
            callback.on_rollouts_ready(self.trainer, self, rollouts, batch, stats)
        if stats.policy_learns:
            with self.metrics.timer("update"):
                self.policy_update(batch, prefix="policy")
        if critic is not None:
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
        optimizer = self._optimizer(0)
        groups = optimizer.param_groups
        rates = [group["lr"] for group in groups]
        self.metrics.add(f"{prefix}/lr", rates[0] * lr_scale)
        size = self.own_mini_batch(mini_batch or self.batching.mini_batch)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * lr_scale
        contributing = batch.contributing_rows()
        made = [
            self._optimizer_step(optimizer, batch, rows, contributing[rows], prefix, self._policy_loss)
            for rows in self._mini_batches(len(batch), size)
        ]
        self.metrics.add(f"{prefix}/skipped_steps", made.count(False))
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        return made.count(True)

    def _critic_update(self, batch: PolicyBatch, value_clip: float) -> None:
        """Train the critic on the same mini-batches."""
        assert batch.value_targets is not None
        targets, mask = batch.value_targets, batch.response_mask
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
            made.append(self._optimizer_step(self._optimizer(1), batch, rows, everything, "value", loss))
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
        micros = micro_batches(batch, work, self.batching.tokens_per_micro_batch)
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
        norm = norm.detach().cpu().double()
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

    def _policy_loss(self, micro: MicroBatch, total: float) -> Loss:
        """Forward pass of the policy, and of its teacher when the batch carries one."""
        target = None
        if micro.teacher_input_ids is not None:
            assert micro.teacher_sequence_mask is not None
            assert self.objective.distillation is not None
            target = self.teacher.distillation_target(
                micro.teacher_input_ids, micro.teacher_sequence_mask, self.objective.distillation.form
            )
        temperature = self.collector.sampling.temperature
        flat = self.policy(micro.input_ids, micro.sequence_mask, temperature, target)
        return self.objective.loss(unflatten(flat, micro.response_mask), micro, total)

    def _value_loss(self, value_clip: float, micro: MicroBatch, total: float) -> Loss:
        """Forward pass of the critic."""
        assert micro.value_targets is not None
        values = unflatten(self.critic(micro.input_ids, micro.sequence_mask), micro.response_mask)
        targets = micro.value_targets
        per_token = clipped_value_loss(values, targets.old_values, targets.returns, value_clip)
        return Loss(value=self.objective.aggregate(per_token, micro.response_mask, total), metrics={})

    def _backward(self, loss: Loss) -> Loss:
        """Backward pass of one micro-batch; returns its share of the loss and its metrics on the CPU."""
        # Strategies average gradients over ranks; the shares are meant to be summed.
        self.manual_backward(loss.value * world()[1])
        metrics = {name: (value.double().cpu(), count.cpu()) for name, (value, count) in loss.metrics.items()}
        return Loss(value=loss.value.detach().double().cpu(), metrics=metrics)

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
            raise RunFailed(
                f"{self.skipped_in_a_row} optimiser steps in a row met numbers that are not finite, "
                f"the last in the {prefix} update of iteration {iteration} (loss {loss:g}, gradient norm "
                f"{norm:g}). None of them was made, so the weights are sound; the run folder has the first "
                "of these batches as bad_batch_*.pt. Often the learning rate is too high or the precision "
                "too low (algo.optimizer.learning_rate, strategy.compute_dtype)",
                agreed=True,
            )

    # ------------------------------------------------------------------ pieces

    def _rollout_callbacks(self) -> list[RolloutCallback]:
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, RolloutCallback)]

    def max_over_ranks(self, value: Number) -> Number:
        """Largest value over all ranks."""
        return all_reduce_max(value, self.device)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Sum of a CPU tensor over all ranks."""
        return all_reduce_sum(value, self.device)

    def models(self) -> list[torch.nn.Module]:
        """Every model that is held, each once."""
        held: list[torch.nn.Module | None] = [self.policy, self.__dict__["reference"]]
        if self.objective.critic is not None:
            held.append(self.critic)
        if self.teacher is not self.policy:
            held.append(self.teacher)
        return [model for model in held if model is not None]

    def _gradient_sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged between ranks only with the last micro-batch."""
        for model in self.models():
            sync_gradients(model, wanted=last)
        strategy = self.trainer.strategy
        if last or not isinstance(strategy, DDPStrategy):
            return nullcontext()
        return strategy.block_backward_sync()

    def _passes(self, own: int) -> int:
        """How many forward passes to make where this rank needs ``own``."""
        return self.max_over_ranks(own) if is_sharded(self.policy) else own

    def _mean_reward(self, rollouts: Rollouts) -> float:
        """mu_t: mean verifier reward over all sampled responses of all ranks."""
        sums = torch.tensor([rollouts.reward_sum, float(rollouts.reward_count)], dtype=torch.float64)
        total, count = self.sum_over_ranks(sums).tolist()
        return total / count

    def _annotate(self, rollouts: Rollouts) -> Annotations:
        """Log-probabilities of the behaviour policy and the reference, before any weight moves."""
        sampled = rollouts.completions.logprobs
        old = sampled if self.engine.shares_weights else self._score(self.policy, rollouts)
        reference = self.__dict__["reference"]
        values = self._score(self.critic, rollouts) if self.objective.critic is not None else None
        return Annotations(
            old_logprobs=old,
            importance=self._correct_sampler(old, sampled, rollouts.completions.response_mask),
            ref_logprobs=None if reference is None else self._score(reference, rollouts),
            values=values,
            teacher=self._annotate_teacher(rollouts),
        )

    def _correct_sampler(self, trainer: Tensor, sampler: Tensor, mask: Tensor) -> Tensor | None:
        """Importance weights of the tokens, and how far the sampler is from the trainer."""
        gap, count = ((trainer - sampler) * mask).abs(), mask.sum()
        self.metrics.add("rollout/logprob_diff", gap.sum(), count)
        self.metrics.add("rollout/logprob_diff_max", self.max_over_ranks(gap.max().item()))
        if self.importance.level == "none":
            return None
        weights = importance_weights(trainer, sampler, mask, self.importance)
        self.metrics.add("rollout/importance_weight", weights.sum(), count)
        self.metrics.add("rollout/importance_capped", (weights >= self.importance.cap).sum(), count)
        return weights

    def _annotate_teacher(self, rollouts: Rollouts) -> TeacherAnnotation | None:
        """Privileged prompts, and what the teacher thinks of the sampled tokens."""
        distillation = self.objective.distillation
        if distillation is None:
            return None
        prompts = self._privileged(rollouts, distillation)
        taught = torch.tensor([i for i, ids in enumerate(prompts) if ids is not None], dtype=torch.int64)
        self.metrics.add("rollout/taught", len(taught), len(prompts))
        completed = [ids if ids is not None else () for ids in prompts]
        logprobs = self._score(self.teacher, rollouts, prompts=completed, group_size=1, rows=taught)
        return TeacherAnnotation(prompt_ids=prompts, logprobs=logprobs)

    def _score(self, model: Policy | Critic, rollouts: Rollouts, **other: Any) -> Tensor:
        """What a model says about the response tokens; see :func:`score_responses`."""
        scores = score_responses(
            model,
            rollouts,
            temperature=self.collector.sampling.temperature,
            token_budget=self.batching.tokens_per_micro_batch,
            device=self.device,
            passes=self._passes,
            **other,
        )
        reshard(model)
        return scores

    def _summarise(self, seconds: float) -> dict[str, float]:
        """The iteration's metrics over all ranks, in one reduction."""
        self.metrics.add("time/iteration", seconds)
        means = self.metrics.reduce(self.sum_over_ranks)
        # Counted per rank, over all rounds of sampling.
        tokens = means.pop("rollout/sampled_tokens") * world()[1]
        means["train/tokens_per_second"] = tokens / means["time/iteration"]
        means["rollout/tokens_per_second"] = tokens / means["time/generate"]
        return means
