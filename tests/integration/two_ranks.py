"""A program for tests: one of two processes that train the toy, case after case.

python two_ranks.py OUT CASE...

A case is strategy:objective:pipo[:further], for example fsdp:grpo:default. PIPO is ``none``, ``default`` or
``controlled``: paired feedback, with a rate that follows the evidence and iterations that are undone. Further
are ``local`` to sample from the weights themselves, ``export`` to save the model at the end, ``resume`` to
save in the middle and make what comes after it once more in a new trainer, ``bfloat16`` to compute in that,
``fraction`` for retrospective updates on a few rows, ``exchange`` to exchange gradients with every
micro-batch, ``turns`` for episodes of several turns, and ``lora`` to train adapters. The program is started
twice, with LOCAL_RANK 0 and 1; to find each other takes longer than a case, so one start runs many.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import lightning.pytorch as pl
import torch

from pipo.callbacks.export import ModelExport
from pipo.callbacks.step_options import Rejection
from pipo.callbacks.teacher import TeacherAverage
from pipo.distributed.hardware import Hardware
from pipo.distributed.strategies import build_strategy
from pipo.functional.divergence import DistillationForm
from pipo.lm.critic import Critic
from pipo.lm.options import Sharding
from pipo.lm.policy import load_tokenizer
from pipo.lm.sharding import full_tensors
from pipo.lm.spec import embedded_model
from pipo.modules import policy_module
from pipo.modules.batching import micro_batches
from pipo.modules.objectives.base import Objective
from pipo.modules.objectives.cispo import CISPO
from pipo.modules.objectives.dcpo import DCPO
from pipo.modules.objectives.dr_grpo import DrGRPO
from pipo.modules.objectives.gspo import GSPO
from pipo.modules.objectives.ha_dw import HADW
from pipo.modules.objectives.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from pipo.modules.objectives.rloo import RLOO
from pipo.modules.objectives.spo import SPO
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.engine import OnFinished
from pipo.rollout.local import LocalEngine
from pipo.rollout.options import SamplingParams
from tests import toy
from tests.integration import test_ppo, test_sdpo

# Adam divides a gradient of rounding errors by itself, so such weights differ by a part of the rate.
RATE = 1e-4
CLIP: dict[str, Any] = {
    "clip_low": 0.2,
    "clip_high": 0.2,
    "dual_clip": 3.0,
    "aggregation": "token-mean",
    "kl_coef": 0.0,
}
REVERSE_KL = DistillationForm(kind="reverse-kl", alpha=None, top_k=None)
OBJECTIVES = {
    "ppo": lambda: test_ppo.ppo(kl_reward_coef=0.05),
    "grpo": lambda: toy.grpo(kl_coef=0.05),
    "gspo": lambda: GSPO(
        **{**CLIP, "dual_clip": None, "aggregation": "seq-mean-token-mean", "kl_coef": 0.05},
        advantage_eps=1e-6,
    ),
    "dapo": lambda: toy.grpo(clip_high=0.28, dual_clip=10.0),
    "sdpo": lambda: test_sdpo.sdpo(REVERSE_KL),
    "sdpo_official": lambda: test_sdpo.sdpo(test_sdpo.OFFICIAL, 0.05),
    "rloo": lambda: RLOO(**CLIP),
    "dr_grpo": lambda: DrGRPO(**CLIP, max_response_tokens=5),
    "reinforce_plus_plus": lambda: ReinforcePlusPlus(
        **{**CLIP, "aggregation": "seq-mean-token-mean"}, kl_reward_coef=0.05
    ),
    "reinforce_plus_plus_baseline": lambda: ReinforcePlusPlusBaseline(**CLIP),
    "ha_dw": lambda: HADW(**CLIP, advantage_eps=1e-6, window=2, scale=1.3),
    "dcpo": lambda: DCPO(
        epsilon_low=0.16, epsilon_high=0.2, ratio_cap=10.0, aggregation="token-mean", kl_coef=0.0
    ),
    "spo": lambda: SPO(
        **CLIP,
        prior=0.5,
        forgetting_half=0.06,
        forgetting_least=0.5,
        forgetting_most=0.96,
        exploration=0.05,
    ),
    "cispo": lambda: CISPO(**{**CLIP, "clip_low": 1.0, "dual_clip": None}, advantage_eps=1e-6),
}


class ScriptedEngine:
    """Responses that depend on the prompt and the number of the call alone, neither on ranks nor on weights.

    Lengths differ, so ranks need different numbers of forward passes. Some prompts of some calls get the same
    first token in all responses, so DAPO's filter drops groups, and on some rank in some call all of them.
    """

    shares_weights = False

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def generate(
        self,
        prompts: Sequence[TokenIds],
        group_size: int,
        sampling: SamplingParams,
        seed: int,
        on_finished: OnFinished | None = None,
        *,
        hold: bool = False,
        continues: Sequence[int] | None = None,
    ) -> Completions:
        self.calls += 1
        rows = [row for prompt in prompts for row in self._group(prompt, group_size)]
        ids, mask = pad_rows(rows)
        finished = torch.tensor([row[-1] == toy.STOP for row in rows], dtype=torch.bool)
        zeros = torch.zeros(ids.shape)
        return Completions(
            response_ids=ids, response_mask=mask, sampled=mask, logprobs=zeros, finished=finished
        )

    def _group(self, prompt: TokenIds, group_size: int) -> list[list[int]]:
        key = zlib.crc32(repr((prompt, self.calls)).encode())
        generator = torch.Generator().manual_seed(key)
        lengths = torch.randint(1, 6, (group_size,), generator=generator).tolist()
        rows = [torch.randint(2, 48, (n,), generator=generator).tolist() for n in lengths]
        if key % 3 == 0:
            rows = [[2, *row[1:]] for row in rows]
        return [[*row[:-1], toy.STOP] if len(row) > 2 else row for row in rows]

    def sync_weights(self, parameters) -> None:
        for _ in parameters:
            pass

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


class PromptSeededEngine(LocalEngine):
    """Draws depend on the prompt and the call, so that ranks sample what one process would."""

    calls = 0

    def generate(self, prompts, group_size, sampling, seed, on_finished=None, **_):
        self.calls += 1
        seeds = [zlib.crc32(repr((prompt, self.calls)).encode()) for prompt in prompts]
        pairs = zip(prompts, seeds, strict=True)
        return Completions.join(
            [super(PromptSeededEngine, self).generate([p], group_size, sampling, s) for p, s in pairs]
        )


class UnevenSampling(pl.Callback):
    """Before training and after every iteration, each rank samples as often as its number says: 0, 1."""

    def __init__(self) -> None:
        self.sampled: list[Completions] = []

    def on_train_start(self, trainer, pl_module) -> None:
        with pl_module.sampling():
            for number in range(trainer.global_rank):
                engine = LocalEngine(pl_module.policy, toy.ENGINE)
                self.sampled.append(engine.generate([(2, 3), (5, 3, 9)], 3, toy.sampling(), number))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.on_train_start(trainer, pl_module)


class Exchanged(pl.Callback):
    """Share of the parameters that have their gradient, or their shard of it, after a backward pass.

    Until gradients are exchanged it is another tensor that holds them, as large as the whole parameter.
    """

    def on_after_backward(self, trainer, pl_module) -> None:
        grads = [each.grad is not None for each in pl_module.policy.parameters()]
        pl_module.metrics.add("exchanged", sum(grads), len(grads))


class Whole(pl.Callback):
    """Every model, put together from its shards, and the metrics after each iteration."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        models = {"policy": pl_module.policy}
        if isinstance(getattr(pl_module, "critic", None), Critic):
            models["critic"] = pl_module.critic
        if pl_module.teacher is not pl_module.policy:
            models["teacher"] = pl_module.teacher
        self.metrics.append(dict(pl_module.row))
        self.weights.append(
            {f"{of}.{k}": v.clone() for of, model in models.items() for k, v in full_tensors(model)}
        )


def run(name: str, ranks: int, out: Path) -> Whole:
    """Train one case in a world of so many processes; where it is resumed, its last iteration comes twice."""
    further = name.split(":")[3:]
    more: list[pl.Callback] = []
    if "export" in further:
        tokenizer = load_tokenizer(embedded_model("tiny"))
        more = [ModelExport(folder=str(out / f"model-{ranks}"), tokenizer=tokenizer)]
    if "resume" not in further:
        return fit(name, ranks, more)
    saved = out / f"{name.replace(':', '-')}-{ranks}.ckpt"
    whole = fit(name, ranks, [*more, Save(saved, after=iterations_of(name) - 1)])
    again = fit(name, ranks, [], saved)
    whole.weights += again.weights
    whole.metrics += again.metrics
    return whole


def iterations_of(name: str) -> int:
    """With PIPO's window of two, the third iteration is the first with a retrospective update.

    One more where something rare has to happen: harm, a step of few rows, all rows of a step on one rank.
    """
    if ":none" in name:
        return 2
    return 4 if any(each in name for each in (":controlled", ":fraction", ":export")) else 3


class RowsAtWork:
    """Response tokens that this rank trains on in every optimiser step, and those of rows that it sampled.

    Not what it reads: what rows begin with in common is read once, and they are dealt as if they shared
    nothing but prompts.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, int]] = []
        self.balanced = policy_module.balanced_micro_batches

    def __call__(self, batch, rows, *others):
        micros = self.balanced(batch, rows, *others)
        read = sum(len(micro.rows.targets) for micro in micros)
        home = micro_batches(batch, rows, 10**9)
        self.steps.append({"read": read, "at_home": sum(len(micro.rows.targets) for micro in home)})
        return micros


class Save(pl.Callback):
    def __init__(self, path: Path, after: int) -> None:
        self.path, self.after = path, after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx + 1 == self.after:
            trainer.save_checkpoint(self.path)


def fit(name: str, ranks: int, more: list[pl.Callback], checkpoint: Path | None = None) -> Whole:
    """One trainer."""
    iterations = iterations_of(name)
    strategy, algorithm, pipo, *further = name.split(":")
    objective: Objective = OBJECTIVES[algorithm]()
    # Two optimiser steps per iteration; DAPO's filter leaves ranks with different numbers of rows, so that
    # only a mini-batch of everything holds the same rows however they are split.
    dapo = algorithm == "dapo"
    module = toy.module(
        objective,
        mini_batch=16 if dapo else 8,
        tokens=40,
        rounds=int(dapo),
        learning_rate=RATE,
        sharding=Sharding(
            reduce_dtype="float32",
            gradient_exchange="micro_batch" if "exchange" in further else "step",
            cpu_offload=False,
        )
        if strategy == "fsdp"
        else None,
        compute_dtype=torch.bfloat16 if "bfloat16" in further else None,
        draw={"max_response_tokens": 14} if "turns" in further else None,
        look_back="cpu"
        if pipo == "controlled" and strategy == "ddp"
        else "device"
        if pipo == "controlled"
        else None,
    )
    if "turns" in further:
        module.collector.task = toy.TalkingTask()
    if "lora" in further:
        module._load_policy = toy.adapted_policy
    local, calls = "local" in further, 0 if checkpoint is None else iterations - 1
    module._make_engine = lambda policy: (
        PromptSeededEngine(policy, toy.ENGINE) if local else ScriptedEngine(calls)
    )
    whole = Whole()
    more = [*more, UnevenSampling()] if local else more
    callbacks: list[pl.Callback] = [TeacherAverage(weight=0.05)] if algorithm == "sdpo_official" else []
    callbacks += [Exchanged()] if "exchange" in further else []
    row_fraction = 0.2 if "fraction" in further else 1.0
    callbacks += [toy.pipo(window=2, row_fraction=row_fraction)] if pipo == "default" else []
    if pipo == "controlled":
        # Whatever looks like harm is undone, so that it happens within four iterations.
        rejection = Rejection(most_spread=0.7, most_harm=1e-6, shrink=0.5)
        callbacks += [toy.step_control(rejection=rejection), toy.pipo(window=2, feedback="paired")]
    hardware = Hardware(
        accelerator="cpu", devices=ranks, num_nodes=1, strategy="single" if ranks == 1 else strategy
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=build_strategy(
            hardware, has_critic=objective.critic is not None, cpu_offload=False, timeout_s=200
        ),
        max_epochs=1,
        logger=False,
        callbacks=[*callbacks, *more, whole],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=toy.data(iterations), ckpt_path=checkpoint)
    return whole


def main(out: Path, names: list[str]) -> None:
    """Run the cases and save what this rank ended with."""
    for name in names:
        policy_module.balanced_micro_batches = work = RowsAtWork()
        whole = run(name, 2, out)
        policy_module.balanced_micro_batches = work.balanced
        rank = torch.distributed.get_rank()
        torch.save((whole.weights, whole.metrics), out / f"{name.replace(':', '-')}-{rank}.pt")
        torch.save(work.steps, out / f"{name.replace(':', '-')}-{rank}-tokens.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
