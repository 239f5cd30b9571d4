"""Ctrl-C and SIGTERM end the run between two iterations, so that nothing half-done is saved."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl

log = logging.getLogger(__name__)


class GracefulStop(pl.Callback):
    """The first signal finishes the iteration, saves and stops; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        super().__init__()
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str:
        """What stopped the run; another process's signal has no name here."""
        return self.received.name if self.received is not None else "a signal to another process"

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells do."""
        return 128 + int(self.received if self.received is not None else signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        log.warning("%s: finishing this iteration, then saving and stopping", self.received.name)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the trainer to stop; every rank must agree, whichever received the signal."""
        stop = trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)
        if stop:
            trainer.should_stop = True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back, after the last evaluation."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
