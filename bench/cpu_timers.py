"""Phase times of a run in CPU seconds, which other work on the machine hardly changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl

from pipo.distributed.metrics import IterationMetrics
from pipo.modules.policy_module import PolicyModule


class CpuTimers(pl.Callback):
    """Makes ``time/<phase>`` CPU seconds of this process; ``time/iteration`` stays as it is."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From the first iteration on."""
        assert isinstance(pl_module, PolicyModule)
        pl_module.metrics = CpuMetrics()


class CpuMetrics(IterationMetrics):
    """The module's metrics with another clock."""

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Add the CPU seconds spent inside to ``time/<name>``; several uses in an iteration add up."""
        start = time.process_time()
        yield
        first = f"time/{name}" not in self._counts
        self.add(f"time/{name}", time.process_time() - start, int(first))
