"""A program: trains the toy with an objective on some ranks and saves what each rank ended with.

python two_ranks.py OBJECTIVE RANKS OUT
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import lightning.pytorch as pl
import torch

from pipo.callbacks.teacher import TeacherAverage
from pipo.modules.objectives.dr_grpo import DrGRPO
from pipo.records import Completions
from pipo.rollout.local import LocalEngine
from tests import toy
from tests.integration import test_ppo, test_sdpo

CLIP = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0, "aggregation": "token-mean", "kl_coef": 0.0}


class PromptSeededEngine(LocalEngine):
    """Draws depend on the prompt and the call, so that ranks sample what one process would."""

    calls = 0

    def generate(self, prompts, group_size, sampling, seed):
        self.calls += 1
        seeds = [zlib.crc32(repr((prompt, self.calls)).encode()) for prompt in prompts]
        pairs = zip(prompts, seeds, strict=True)
        return Completions.join(
            [super(PromptSeededEngine, self).generate([p], group_size, sampling, s) for p, s in pairs]
        )


OBJECTIVES = {
    "grpo": lambda: (toy.grpo(kl_coef=0.05), []),
    "dr_grpo": lambda: (DrGRPO(**CLIP, max_response_tokens=5), []),
    "ppo": lambda: (test_ppo.ppo(kl_reward_coef=0.05), []),
    "sdpo": lambda: (test_sdpo.sdpo(test_sdpo.OFFICIAL, 0.05), [TeacherAverage(weight=0.05)]),
    "dapo": lambda: (toy.grpo(), []),
}


def main(name: str, ranks: int, out: Path) -> None:
    """Six iterations, PIPO from the third."""
    objective, callbacks = OBJECTIVES[name]()
    rounds = 2 if name == "dapo" else 0
    module = toy.module(objective, mini_batch=16, tokens=40, learning_rate=1e-3, rounds=rounds)
    module._make_engine = lambda policy: PromptSeededEngine(policy, toy.ENGINE)
    record = toy.Record()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="auto" if ranks == 1 else "ddp_find_unused_parameters_true",
        max_epochs=1,
        logger=False,
        callbacks=[*callbacks, toy.pipo(window=2), record],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=toy.data(6))
    torch.save((record.weights[-1], record.metrics), out / f"{name}-{ranks}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
