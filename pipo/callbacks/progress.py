"""What a run looks like while it runs: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipo.modules.policy_module import PolicyModule

# Without a terminal, this many lines over the whole run.
_LINES = 15


class RunProgress(ProgressBar):
    """Iteration, reward, progress xi, coefficient, accuracy, tokens per second, time left."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(file=sys.stdout)
        self._bar: Progress | None = None
        self._started = 0.0
        self._first = 0
        self._fit_started: float | None = None
        self._earlier = 0.0
        self._held_out: float | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run so far, the time before a resume included."""
        running = 0.0 if self._fit_started is None else time.monotonic() - self._fit_started
        return self._earlier + running

    def state_dict(self) -> dict[str, Any]:
        """The clock goes into the checkpoints."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the clock over."""
        self._earlier = float(state_dict["seconds"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._fit_started = time.monotonic()

    def disable(self) -> None:
        """Called by Lightning on every rank but the first."""
        self.console = Console(quiet=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The bar, when there is a terminal."""
        self._started, self._first = time.monotonic(), trainer.fit_loop.total_batch_idx + 1  # after a resume
        if self.console.is_terminal:
            self._bar = Progress(
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(compact=True),
                console=self.console,
            )
            self._bar.start()
            self._bar.add_task(
                "train", total=int(trainer.num_training_batches), completed=self._first, status=""
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the newest numbers."""
        done, total = batch_idx + 1, int(trainer.num_training_batches)
        assert isinstance(pl_module, PolicyModule)
        self._held_out = pl_module.row.get("eval/pass@1", self._held_out)
        status = self._status(pl_module.row)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, status=status)
            if done == total or trainer.should_stop:
                self._stop()  # what follows prints lines of its own
        elif done % max(1, total // _LINES) == 0 or done == total:
            elapsed = time.monotonic() - self._started
            left = elapsed / (done - self._first) * (total - done)
            line = f"iteration {done}/{total}  {status}  {left:.0f} s left"
            self.console.print(line, highlight=False, soft_wrap=True)

    def _status(self, metrics: dict[str, float]) -> str:
        parts = [f"reward {metrics['train/reward']:.3f}"]
        if self._held_out is not None:
            parts.append(f"held-out {self._held_out:.3f}")
        if "pipo/applied" in metrics:
            defined = "pipo/progress" in metrics
            xi = f"{metrics['pipo/progress']:+.2f}" if defined else "--"
            coefficient = f"{metrics['pipo/coefficient']:+.2f}" if defined else "--"
            parts.append(f"xi {xi:>5}  coef {coefficient:>5}")
        parts.append(f"{metrics['train/tokens_per_second']:,.0f} tok/s")
        return "  ".join(parts)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was, so that the error can be read."""
        self._stop()
