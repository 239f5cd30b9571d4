"""A program: two ranks train the toy, and the second gets numbers that are not finite in iteration 1.

python poisoned_ranks.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import lightning.pytorch as pl
import torch

from pipo.callbacks.guard import SkippedStepLog
from pipo.modules.hooks import RolloutCallback
from tests import toy


class PoisonSecondRank(RolloutCallback):
    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        if stats.iteration == 1 and trainer.global_rank == 1:
            batch.advantages[0] = float("nan")


def main(out: Path) -> None:
    """Three iterations of one optimiser step each."""
    record = toy.Record()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        logger=False,
        callbacks=[record, PoisonSecondRank(), SkippedStepLog(folder=str(out))],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(toy.module(), datamodule=toy.data(3))
    skipped = [metrics["policy/skipped_steps"] for metrics in record.metrics]
    torch.save({"weights": record.weights[-1], "skipped": skipped}, out / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
