"""Graceful stop on SIGTERM, SIGINT and SIGUSR1 between two iterations, and SLURM requeue."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from pipo.modules.hooks import learner

log = logging.getLogger(__name__)

# What SLURM sends before a time limit when it is asked to (sbatch --signal=USR1@300).
REQUEUE = signal.SIGUSR1


class GracefulStop(pl.Callback):
    """The first signal finishes the iteration, saves and stops; a second Ctrl-C stops at once.

    It takes SIGUSR1 over as well, which Lightning would answer with a checkpoint of its own in the middle of
    an iteration.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received: signal.Signals | None = None
        #: What stopped the run; the same on every process, whichever was told.
        self.reason: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM, REQUEUE):
            self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        log.warning("%s: finishing this iteration, then saving and stopping", self._received.name)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the trainer to stop; every process must agree, whichever received the signal."""
        module = learner(pl_module)
        number = module.max_over_ranks(int(self._received or 0))
        if number:
            self.reason = signal.Signals(number)
            trainer.should_stop = True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back, after the last evaluation."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def requeue() -> str | None:
    """Put the SLURM job that this is back into its queue; says what became of that, None outside of a job.

    SLURM ends a running job that it queues again, so everything must be saved by now.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"job {job} could not be queued again: scontrol cannot be run ({error.strerror})"
    if done.returncode:
        return f"job {job} could not be queued again: {(done.stderr or done.stdout).strip()}"
    return f"job {job} is queued again"
