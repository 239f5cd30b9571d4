"""A task and a trainer small enough for tests that train: no tokenizer, no files, a second per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ProgressBar

from pipo.callbacks.pipo import PIPOCallback
from pipo.callbacks.pipo_options import PipoOptions
from pipo.callbacks.step_control import StepControl
from pipo.callbacks.step_options import StepControlOptions
from pipo.lm.adapters import add_adapters
from pipo.lm.options import Lora, Sharding
from pipo.lm.policy import Policy
from pipo.modules.hooks import IterationStats, RolloutCallback
from pipo.modules.objectives.base import Distillation, Objective
from pipo.modules.objectives.grpo import GRPO
from pipo.modules.options import BatchConfig, OptimizerConfig, Place
from pipo.modules.policy_module import PolicyModule
from pipo.records.correction import ImportanceCorrection
from pipo.records.problems import Example, Message, Prompt, Reply, Reward, Split, Transcript
from pipo.records.rollouts import Rollouts, TokenIds
from pipo.rollout.collector import Collector
from pipo.rollout.datamodule import IterationDataset, PromptDataModule
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from pipo.rollout.options import SamplingParams
from pipo.rollout.privileged import teacher_prompts
from pipo.rollout.reward_terms import RewardTerm
from pipo.runs.checkpoints import STATE
from pipo.tasks.base import Task
from pipo.tasks.environment import Environment
from tests.policies import make_policy as make_policy

STOP = 1
ENGINE = LocalEngineConfig(max_rows=64, compact_below=0.75)


class ToyTask(Task[Example]):
    """Reward 1 when the first token of the response is even."""

    name = "toy"
    version = "1"
    template = "toy/1"

    def examples(self, split: Split) -> Sequence[Example]:
        return [Example(uid=f"toy/{split}/{i}", question=str(i), answer="even") for i in range(24)]

    def render(self, example: Example) -> Prompt:
        raise NotImplementedError("the toy has no text")

    def render_with_hint(self, example: Example, *, solution: str | None, feedback: str | None) -> Prompt:
        return Prompt(messages=(), text=f"{solution or feedback} 2 3")

    def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        firsts = [response.split()[0] for response in responses]
        return [Reward(score=float(int(first) % 2 == 0), answer=first) for first in firsts]


class TalkingTask(ToyTask):
    """Says ``30 31`` to a turn that begins with an odd number, and takes an even one as right."""

    max_turns = 3

    def environment(self, example: Example) -> Environment:
        return Talking()


class Talking(Environment):
    def step(self, transcript: Transcript) -> Reply:
        right = int(transcript[-1].content.split()[0]) % 2 == 0
        reward = Reward(score=1 / len(transcript) if right else 0.0, feedback="try again")
        said = () if right else (Message(role="tool", content="30 31"),)
        return Reply(messages=said, reward=reward, tool_calls=1, tool_errors=int(not right))


def decode(ids: Sequence[int], prompt: Sequence[int] = ()) -> str:
    return " ".join(map(str, ids))


def encode_reply(messages: Sequence[Message], last: int) -> TokenIds:
    return tuple(int(word) for message in messages for word in message.content.split())


def sampling(**changes: Any) -> SamplingParams:
    options = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "max_response_tokens": 5,
        "stop_token_ids": frozenset({STOP}),
    }
    return SamplingParams(**{**options, **changes})


def grpo(**changes: Any) -> GRPO:
    options: dict[str, Any] = {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "dual_clip": 3.0,
        "aggregation": "token-mean",
        "kl_coef": 0.0,
        "advantage_eps": 1e-6,
    }
    return GRPO(**{**options, **changes})


def pipo(**changes: Any) -> PIPOCallback:
    options: dict[str, Any] = {
        "name": "default",
        "window": 2,
        "negative_scale": 0.1,
        "lr_scale": 1.0,
        "kl_coef": 0.0,
        "mini_batch": None,
        "deviation": "sample",
        "clip": "signed",
        "max_progress": None,
        "feedback": "progress",
        "constant": 1.0,
        "row_fraction": 1.0,
        "rows_follow_coefficient": False,
        "step_control": None,
    }
    return PIPOCallback(PipoOptions(**{**options, **changes}))


def step_control(**changes: Any) -> StepControl:
    """Step control, without rejection unless asked for."""
    options: dict[str, Any] = {
        "slope_left": 0.9,
        "first_gain": 0.35,
        "least_gain": 0.1,
        "most_evidence": 2.0,
        "least_factor": 1e-4,
        "most_factor": 1e4,
        "rejection": None,
    }
    return StepControl(StepControlOptions(**{**options, **changes}))


def privileged(rollouts: Rollouts, distillation: Distillation) -> tuple[TokenIds | None, ...]:
    """The toy's teacher is told a successful first token, in front of the prompt."""

    def encode(prompt: Prompt) -> TokenIds:
        return tuple(int(word) for word in prompt.text.split())

    return teacher_prompts(
        rollouts,
        ToyTask(),
        encode,
        from_siblings=distillation.from_siblings,
        from_feedback=distillation.from_feedback,
        success_threshold=distillation.success_threshold,
        positions=None,
    )


def module(
    objective: Objective | None = None,
    *,
    mini_batch: int = 16,
    tokens: int = 64,
    group_size: int = 4,
    rounds: int = 0,
    terms: Mapping[str, RewardTerm] | None = None,
    sharding: Sharding | None = None,
    compute_dtype: torch.dtype | None = None,
    importance: ImportanceCorrection | None = None,
    look_back: Place | None = None,
    draw: Mapping[str, Any] | None = None,
    replay: bool = True,
    **optimizer: Any,
):
    numbers = {
        "learning_rate": 1e-2,
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "warmup_iterations": 0,
        "decay": "none",
        "iterations": 100,
        "max_skipped_steps": 3,
    }
    drawn = sampling(**(draw or {}))
    return PolicyModule(
        load_policy=make_policy,
        make_engine=lambda policy: LocalEngine(policy, ENGINE),
        collector=Collector(
            task=ToyTask(),
            decode=decode,
            encode_reply=encode_reply,
            group_size=group_size,
            sampling=drawn,
            dynamic_sampling_rounds=rounds,
            terms=terms or {},
        ),
        privileged=privileged,
        objective=objective or grpo(),
        importance=importance or ImportanceCorrection(level="none", cap=2.0),
        optimizer=OptimizerConfig(**{**numbers, **optimizer}),
        batching=BatchConfig(mini_batch=mini_batch, tokens_per_micro_batch=tokens),
        seed=7,
        sharding=sharding,
        compute_dtype=compute_dtype,
        look_back=look_back,
        cut=drawn if drawn.cuts and replay else None,
    )


def adapted_policy() -> Policy:
    """The toy's policy with adapters on some of its layers, as if they had been trained already."""
    policy = make_policy()
    add_adapters(policy, Lora(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "down_proj")), seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in (weight for weight in policy.parameters() if weight.requires_grad):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return policy


class Record(RolloutCallback):
    """Keeps what an iteration showed: mean reward, token ids, metrics, weights after it."""

    def __init__(self) -> None:
        self.stats: list[IterationStats] = []
        self.batches: list[Any] = []
        self.metrics: list[dict[str, float]] = []
        self.weights: list[dict[str, Any]] = []

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        self.stats.append(stats)
        self.batches.append(batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.metrics.append(dict(pl_module.row))
        self.weights.append({k: v.detach().clone() for k, v in pl_module.state_dict().items()})


def data(iterations: int) -> PromptDataModule:
    examples = ToyTask().examples("train")
    prompts = [(2 + i, 3 + i % 5, *([9] * (i % 3))) for i in range(len(examples))]
    return PromptDataModule(
        IterationDataset(
            examples,
            prompts,
            prompts_per_iteration=4,
            iterations=iterations,
            seed=7,
            shuffle=True,
            repeat_after=None,
        )
    )


def fit(
    model: PolicyModule,
    callbacks: list[pl.Callback],
    iterations: int,
    checkpoint: Path | None = None,
    accelerator: str = "cpu",
) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=1,
        logger=False,
        callbacks=callbacks,
        log_every_n_steps=1,
        enable_checkpointing=any(type(c).__name__ == "IterationCheckpoint" for c in callbacks),
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    state = None if checkpoint is None else checkpoint / STATE
    trainer.fit(model, datamodule=data(iterations), ckpt_path=state)
    return trainer
