"""Load and shard the models of a run, with optimisers, schedules and the rollout engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from pipo.distributed.collectives import Number, all_reduce_max, all_reduce_sum
from pipo.distributed.hardware import gpu_memory
from pipo.lm.critic import Critic
from pipo.lm.options import Sharding
from pipo.lm.policy import Policy
from pipo.lm.reference import OtherAdapters, Scorer, Teacher, WithoutAdapters, frozen
from pipo.lm.sharding import exchanges_each_pass, gathered, is_sharded, shard
from pipo.lm.weights_copy import WeightsCopy
from pipo.modules.objectives.base import Objective
from pipo.modules.options import OptimizerConfig, Place
from pipo.rollout.engine import RolloutEngine

Model = TypeVar("Model", Policy, Critic)


class ModelHolder(pl.LightningModule):
    """The policy, what an objective needs beside it, and how they are placed on the hardware.

    Args:
        load_policy: makes the policy; called once per model and process, after the strategy is set up.
        make_engine: makes the rollout engine for a policy.
        objective: says which further models there are.
        optimizer: AdamW's numbers.
        compute_dtype: dtype of matrix products, everywhere; None for that of the weights.
        sharding: how weights are sharded by a strategy that does; None for whole weights.
        look_back: where the weights before the last iteration are kept, to measure it; None for not at all.
    """

    policy: Policy
    """Policy that is trained."""
    critic: Critic
    """Critic, with an objective that has one."""
    teacher: Teacher
    """Self-teacher: the policy itself, or its moving average."""
    engine: RolloutEngine
    """Rollout engine, which samples from the policy."""
    before: WeightsCopy | None
    """Weights that the previous batch was sampled from; None where nothing looks back."""
    exchanges_each_pass: bool
    """Whether shards of gradients travel with every micro-batch, and not only with the last of a step."""

    def __init__(
        self,
        *,
        load_policy: Callable[[], Policy],
        make_engine: Callable[[Policy], RolloutEngine],
        objective: Objective,
        optimizer: OptimizerConfig,
        compute_dtype: torch.dtype | None,
        sharding: Sharding | None,
        look_back: Place | None,
    ) -> None:
        super().__init__()
        self.compute_dtype, self.sharding = compute_dtype, sharding
        self._load_policy, self._make_engine = load_policy, make_engine
        self.objective, self.optimizer_config = objective, optimizer
        self.look_back: Place | None = look_back
        self._configured = False
        self._ddp_params_and_buffers_to_ignore: list[str] = []

    def configure_model(self) -> None:
        """Load the policy, the engine on it, and the further models that the objective asks for.

        On the CPU, one after another, each being brought to its place before the next. Lightning calls this
        with a GPU as the default device of everything that is made: a library that reads a file would put
        it there behind the strategy's back.
        """
        if self._configured:
            return
        self._configured = True
        with torch.device("cpu"):
            self._make_models()

    def _make_models(self) -> None:
        """Fill the attributes of this class."""
        self.policy = self._placed(self._load())
        self.exchanges_each_pass = self.sharding is not None and exchanges_each_pass(
            self.sharding,
            sum(each.numel() for each in self.policy.parameters() if each.requires_grad),
            gpu_memory(self.device),
        )
        self.engine = self._make_engine(self.policy)
        self.before = None
        if self.look_back is not None:
            self.before = WeightsCopy(self.policy, on_cpu=self.look_back == "cpu")
            self._keep_from_ddp("before", self.before)
        # Each model is loaded anew and placed before the next, so that one whole model is held at a time.
        if self.objective.critic is not None:
            self.critic = self._placed(Critic(self._load()))
        # Not registered as a submodule: checkpoints need not hold what can be loaded again.
        self.__dict__["reference"] = self._make_reference() if self.objective.needs_reference else None
        distillation = self.objective.distillation
        if distillation is None or distillation.teacher_average == 1:
            self.__dict__["teacher"] = self.policy  # the same module, which is registered already
        elif self.policy.lora is None:
            self.teacher = self._placed(frozen(self._load()))
        else:
            self.teacher = OtherAdapters(self.policy)
            self._keep_from_ddp("teacher", self.teacher)

    def _make_reference(self) -> Scorer:
        """The policy as it was; with adapters no second model."""
        return (
            self._placed(frozen(self._load())) if self.policy.lora is None else WithoutAdapters(self.policy)
        )

    def _keep_from_ddp(self, name: str, copy: torch.nn.Module) -> None:
        """Every process makes the same copy, so that none has to be sent, nor could one on the CPU be."""
        self._ddp_params_and_buffers_to_ignore += [f"{name}.{each}" for each in copy.state_dict()]

    def _load(self) -> Policy:
        """The policy as the run finds it."""
        policy = self._load_policy()
        if self.device_mesh is None:
            policy.compute_dtype = self.compute_dtype
        else:
            # Shards may live on the CPU. Their layers get them in the dtype in which they compute.
            policy.computes_on = self.device
        return policy

    def _placed(self, model: Model) -> Model:
        """The model where this process computes, or cut over the processes by a strategy that does so."""
        if self.device_mesh is None:
            return model.to(self.device)
        assert self.sharding is not None
        shard(model, self.device_mesh["data_parallel"], self.sharding, self.compute_dtype)
        return model

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where this process computes; offloaded weights are elsewhere."""
        return super().device if self._trainer is None else self._trainer.strategy.root_device

    @property
    def reference(self) -> Scorer | None:
        """The policy as it was, for objectives that stay near it; loaded, never restored, so no submodule."""
        return self.__dict__["reference"]

    @property
    def samples_as_it_trains(self) -> bool:
        """Whether the sampler's log-probabilities are the trainer's, and need no second forward pass.

        The sampler reads tokens one by one, the trainer all at once. In float32 the two differ by 1e-6; in
        a shorter format by hundredths, which would pass for a move of the policy and be clipped.
        """
        exact = self.policy.head.weight.dtype == torch.float32 and self.compute_dtype in (None, torch.float32)
        return self.engine.shares_weights and exact and torch.get_float32_matmul_precision() == "highest"

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
        rate = self.optimizer_config.rate
        # Lightning's word for once per batch, which is an iteration here, is a step.
        return [
            {
                "optimizer": each,
                "lr_scheduler": {
                    "scheduler": torch.optim.lr_scheduler.LambdaLR(each, rate),
                    "interval": "step",
                },
            }
            for each in optimizers
        ]

    def _adamw(self, model: torch.nn.Module, scale: float) -> torch.optim.AdamW:
        config = self.optimizer_config
        return torch.optim.AdamW(
            [weight for weight in model.parameters() if weight.requires_grad],
            lr=config.learning_rate * scale,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def optimizer(self, which: int) -> LightningOptimizer:
        """The policy's (0) or the critic's (1) optimiser; Lightning unwraps a list of one."""
        found = self.optimizers()
        return cast(LightningOptimizer, found[which] if isinstance(found, list) else found)

    def teardown(self, stage: str) -> None:
        """The engine ends with the training that it served."""
        self.engine.close()

    def models(self) -> list[torch.nn.Module]:
        """Every model that is held, each once."""
        held: list[torch.nn.Module | None] = [self.policy, self.reference]
        if self.objective.critic is not None:
            held.append(self.critic)
        if self.teacher is not self.policy:
            held.append(self.teacher)
        return [model for model in held if model is not None]

    def passes(self, own: int) -> int:
        """How many forward passes to make where this rank needs ``own``."""
        return self.max_over_ranks(own) if is_sharded(self.policy) else own

    def max_over_ranks(self, value: Number) -> Number:
        """Largest value over all ranks."""
        return all_reduce_max(value, self.device)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Sum of a CPU tensor over all ranks."""
        return all_reduce_sum(value, self.device)
