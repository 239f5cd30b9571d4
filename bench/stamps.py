"""Callbacks for benchmarks: time stamps of iterations, and a straggler response that does not end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from bench import ruler
from pipo.distributed.processes import is_first
from pipo.modules.policy_module import PolicyModule


class IterationStamps(pl.Callback):
    """Write wall and CPU seconds from the end of one iteration to the end of the next.

    Args:
        path: JSON file, written at the end of the run; ``generate`` is by the module's own timers.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []
        self._last, self._began, self._start_cpu = (0.0, 0.0), 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock starts after everything is loaded."""
        self._last, self._began, self._start_cpu = _now(), time.time(), time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One iteration is over, its metrics are written."""
        assert isinstance(pl_module, PolicyModule)
        now = _now()
        row = {
            "wall": now[0] - self._last[0],
            "cpu": now[1] - self._last[1],
            "generate": pl_module.row["time/generate"],
            "tokens": pl_module.row["train/tokens_per_second"] * pl_module.row["time/iteration"],
            "reward": pl_module.row["train/reward"],
            "zero_variance": pl_module.row["rollout/zero_variance_groups"],
        }
        self.rows.append(row)
        self._last = now

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One process writes; CPU seconds and memory, on a GPU that of tensors, are those of all together."""
        assert isinstance(pl_module, PolicyModule)
        on_gpu = pl_module.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else ruler.peak_memory()
        mine = [memory, *(row["cpu"] for row in self.rows)]
        peak, *cpu = pl_module.sum_over_ranks(torch.tensor(mine, dtype=torch.float64)).tolist()
        rows = [{**row, "cpu": seconds} for row, seconds in zip(self.rows, cpu, strict=True)]
        if is_first():
            stamps = {"peak_gib": peak, "began": self._began, "start_cpu": self._start_cpu, "rows": rows}
            self.path.write_text(json.dumps(stamps), encoding="utf-8")


class Straggler(pl.Callback):
    """Keep the first response of every batch from ending before its limit."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wrap what the local engine asks for logits; the first row is always among those that run."""
        assert isinstance(pl_module, PolicyModule)
        policy, stops = pl_module.policy, sorted(pl_module.collector.sampling.stop_token_ids)
        decoder_of = policy.decoder

        def holding(logits_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def held(*args: Any, **kwargs: Any) -> Tensor:
                logits = logits_of(*args, **kwargs)
                logits[0, stops] = torch.finfo(logits.dtype).min
                return logits

            return held

        policy.next_token_logits = holding(policy.next_token_logits)  # type: ignore[method-assign]
        policy.decoder = lambda *args: holding(decoder_of(*args))  # type: ignore[method-assign]


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
