"""Exact resume of random states: Python's, NumPy's and torch's generators of every process.

Prompts, sampling and evaluation do not use them: each has numbers of its own, derived from the run's seed and
the iteration. But a model with dropout, or a task that draws, would.
"""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from pipo.distributed.collectives import gather, own_part, world
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.modules.hooks import learner


class RandomState(pl.Callback):
    """Seeds them where a run begins, keeps them in its checkpoints, and sets them where it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As late as possible: whatever was drawn while things were built does not count."""
        module = learner(pl_module)
        if self._loaded is not None:
            _set_state(self._loaded)
            self._loaded = None
            return
        seed = derive_seed(module.seed, Purpose.GLOBAL, world()[0])
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Every process's; Lightning itself keeps none."""
        checkpoint["random"] = gather(_state())

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """This process's; set when training starts."""
        self._loaded = own_part(checkpoint["random"])


def _state() -> dict[str, Any]:
    """This process's global generators as plain data."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
