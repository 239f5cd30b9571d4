"""Save checkpoints every so many iterations, and whenever held-out accuracy is higher than before.

Lightning's ``ModelCheckpoint`` counts optimiser steps under manual optimisation, and PIPO makes their
number per iteration irregular; it would save at arbitrary iterations or never.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch.distributed.checkpoint.api import CheckpointException

from pipo.callbacks.disk_room import needed_bytes, room_problem
from pipo.callbacks.ending import is_last
from pipo.distributed.collectives import all_gather, world
from pipo.distributed.processes import is_first
from pipo.distributed.strategies import ShardedStrategy
from pipo.errors import RunFailed
from pipo.modules.hooks import learner
from pipo.runs import checkpoints
from pipo.runs.checkpoints import FileMark, HashedFile, Manifest
from pipo.runs.places import resuming
from pipo.runs.run_log import ACCURACY


class StreamedCheckpointIO(TorchCheckpointIO):
    """Writes straight into the file, and reads plain data only.

    Lightning's own makes a second copy of the state in memory, then one in the system's temporary folder.
    Only the first process writes, and the others wait for it: what went wrong is kept for later, when all
    of them can hear of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem: OSError | None = None
        #: What the newest file is.
        self.mark: FileMark | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write the state to a file."""
        try:
            Path(path).parent.mkdir(
                parents=True, exist_ok=True
            )  # Lightning's own ModelCheckpoint relies on it
            with Path(path).open("wb") as file:
                hashed = HashedFile(file)
                torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # it writes and flushes, no more
                self.mark = hashed.mark
        except OSError as error:
            self.problem = error
        except RuntimeError as error:
            # torch reports a failed write as its own error, with the system's behind it.
            if not isinstance(error.__context__, OSError):
                raise
            self.problem = error.__context__

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read the state; a file that would run code when it is unpickled is refused."""
        return torch.load(path, map_location=map_location, weights_only=True)


class IterationCheckpoint(Checkpoint):
    """Saves every so many iterations, at the end, and at every new height of held-out accuracy.

    Args:
        folder: where they go, see :mod:`pipo.runs.checkpoints`.
        every: iterations between two checkpoints.
        keep: how many of the newest stay.
        best: whether the best by held-out accuracy is saved and stays, too.
    """

    def __init__(self, *, folder: str, every: int, keep: int, best: bool) -> None:
        super().__init__()
        if every < 1 or keep < 1:
            raise ValueError(f"checkpoint.every and checkpoint.keep must be >= 1, got {every} and {keep}")
        self.folder, self.every, self.keep, self.best = Path(folder), every, keep, best
        self._highest: float | None = None
        self._io = StreamedCheckpointIO()

    # ------------------------------------------------------------------ when

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """How a state that is one file is written and read."""
        trainer.strategy.checkpoint_io = self._io

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish what a killed save or deletion had begun, and see whether there is room for the run."""
        problem = None
        needed = needed_bytes(pl_module, copies=self.keep + self.best + 1)
        if is_first():
            if self.folder.is_dir():
                checkpoints.sweep(self.folder)
                checkpoints.prune(self.folder, self.keep, self.best)
            problem = room_problem(self.folder, needed)
        if (said := all_gather(problem)[0]) is not None:
            raise RunFailed(said, agreed=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when due, or when the run is about to stop here."""
        module = learner(pl_module)
        done = batch_idx + 1
        accuracy = module.row.get(ACCURACY)
        record = accuracy is not None and (self._highest is None or accuracy > self._highest)
        if record:
            self._highest = accuracy
        due = done % self.every == 0 or is_last(trainer, done)
        if due or (record and self.best):
            self._save(trainer, done, accuracy)

    # ------------------------------------------------------------------ how

    def _save(self, trainer: pl.Trainer, done: int, accuracy: float | None) -> None:
        """Write, check and name a checkpoint; every process takes part, and all or none go on."""
        rank, ranks = world()
        target = self.folder / checkpoints.checkpoint_name(done)
        partial = checkpoints.partial_path(target)
        marks: dict[str, checkpoints.FileMark] = {}

        def prepare() -> None:
            for logger in trainer.loggers:
                logger.save()  # no checkpoint is ahead of its metrics
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoints.sweep(self.folder)
            partial.mkdir()

        def write() -> None:
            trainer.save_checkpoint(partial / checkpoints.STATE)
            problem, self._io.problem = self._io.problem, None
            if isinstance(trainer.strategy, ShardedStrategy) and problem is None:
                problem, trainer.strategy.write_problem = trainer.strategy.write_problem, None
            if problem is not None:
                raise problem

        def mark() -> None:
            written = {} if self._io.mark is None else {checkpoints.STATE: self._io.mark}
            names = checkpoints.state_files(partial)[rank::ranks]
            marks.update(checkpoints.mark_files(partial, names, written))

        def finish() -> None:
            files = {name: m for part in everything for name, m in part.items()}
            manifest = Manifest(iterations=done, processes=ranks, accuracy=accuracy, files=files)
            checkpoints.commit(partial, target, manifest)
            checkpoints.prune(self.folder, self.keep, self.best)

        self._together(prepare if rank == 0 else None, target)
        self._together(write, target)
        self._together(mark, target)
        everything = all_gather(marks)
        self._together(finish if rank == 0 else None, target)

    def _together(self, step: Callable[[], None] | None, target: Path) -> None:
        """Take a step on this process, if it has one; what fails on one fails on all.

        Raises:
            RunFailed: a file could not be written.
        """
        problem = None
        try:
            if step is not None:
                step()
        except OSError as error:
            problem = f"{error.strerror}"
        except CheckpointException as error:
            problem = "; ".join(str(failure[0]) for failure in error.failures.values())
        problems = [each for each in all_gather(problem) if each is not None]
        if not problems:
            return
        if is_first() and self.folder.is_dir():
            checkpoints.sweep(self.folder)
        kept = checkpoints.finished_checkpoints(self.folder)
        before = f"the newest before it is {kept[-1]}" if kept else "there is none before it"
        raise RunFailed(
            f"{target}: the checkpoint cannot be written ({problems[0]}); {before}. "
            f"Make room, then go on with {resuming(self.folder.parent)}",
            agreed=True,
        )

    # ------------------------------------------------------------------ what

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The height that the next best has to pass."""
        checkpoint["highest"] = self._highest

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take it over; a finished run that gets a larger budget has not seen its last batch after all."""
        self._highest = checkpoint["highest"]
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
