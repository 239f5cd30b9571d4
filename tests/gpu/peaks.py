"""Lightning callback that writes down how much memory a run took at most."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch


class Peaks(pl.Callback):
    """Peaks of this process, over the whole run: on the GPU what tensors took and what torch reserved.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them."""
        peaks: dict[str, Any] = {"host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
        if torch.cuda.is_available():
            peaks["gpu_allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
            peaks["gpu_reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
        self.path.write_text(json.dumps(peaks))
