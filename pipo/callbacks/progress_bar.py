"""Progress bar of a run: live in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from pipo.callbacks.ending import is_last
from pipo.modules.hooks import learner

# Without a terminal, this many lines over the whole run.
_LINES = 15
# In characters: a bar in a wide terminal and in a narrow one, the longest time left, gaps between columns.
_WIDE, _BAR, _SHORT_BAR, _TIME, _GAPS = 100, 20, 6, len("1:00:00"), 3


class RunProgress(ProgressBar):
    """Iteration, reward, accuracy, progress xi, coefficient, evidence, rate, tokens per second, time left.

    A narrow terminal shows as many of them as fit one line, the last ones left out.
    """

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
        if self.console.is_interactive:  # a terminal that can move its cursor
            self._bar = Progress(
                MofNCompleteColumn(),
                BarColumn(bar_width=self._bar_width),
                TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True)),
                TimeRemainingColumn(compact=True),
                console=self.console,
                redirect_stderr=sys.stderr.isatty(),  # so that warnings stand above the bar
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
        module = learner(pl_module)
        self._held_out = module.row.get("eval/pass@1", self._held_out)
        parts = self._parts(module.row)
        if self._bar is not None:
            status = "  ".join(parts[: self._fitting(parts, total)])
            self._bar.update(self._bar.task_ids[0], completed=done, status=status)
            if is_last(trainer, done):
                self._stop()  # what follows prints lines of its own
        elif done % max(1, total // _LINES) == 0 or is_last(trainer, done):
            elapsed = time.monotonic() - self._started
            left = elapsed / (done - self._first) * (total - done)
            line = f"iteration {done:>{len(str(total))}}/{total}  {'  '.join(parts)}  {left:.0f} s left"
            self.console.print(line, highlight=False, soft_wrap=True)

    @property
    def _bar_width(self) -> int:
        return _BAR if self.console.width >= _WIDE else _SHORT_BAR

    def _fitting(self, parts: list[str], total: int) -> int:
        """How many of the parts have room in one line."""
        room = self.console.width - len(f"{total}/{total}") - self._bar_width - _TIME - _GAPS
        lengths = itertools.accumulate(len(part) + 2 for part in parts)
        return sum(length - 2 <= room for length in lengths)

    def _parts(self, metrics: dict[str, float]) -> list[str]:
        """The newest numbers, the most important first; each as wide as in other iterations."""
        parts = [f"reward {metrics['train/reward']:.3f}"]
        if self._held_out is not None:
            parts.append(f"held-out {self._held_out:.3f}")
        if "pipo/applied" in metrics:
            defined = "pipo/progress" in metrics
            xi = f"{metrics['pipo/progress']:+.2f}" if defined else "--"
            coefficient = f"{metrics['pipo/coefficient']:+.2f}" if "pipo/coefficient" in metrics else "--"
            parts += [f"xi {xi:>6}", f"coef {coefficient:>6}"]
        if "pipo/evidence" in metrics:
            parts.append(f"evidence {metrics['pipo/evidence']:>+5.1f}")
        if "pipo/rate_factor" in metrics:
            rate = "undone" if metrics["pipo/undone"] else f"{metrics.get('policy/lr', 0.0):.1e}"
            parts.append(f"lr {rate:>7}")
        parts.append(f"{metrics['train/tokens_per_second']:>7,.0f} tok/s")
        return parts

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
