"""Write ``summary.json`` and the pages of a run when its last iteration is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import lightning.pytorch as pl

from pipo.callbacks.ending import RunEnd
from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.callbacks.export import ModelExport
from pipo.callbacks.interrupt import REQUEUE, GracefulStop
from pipo.callbacks.progress_bar import RunProgress
from pipo.distributed.processes import is_first
from pipo.errors import reason
from pipo.evaluation.held_out import AFTER_FILE
from pipo.runs.run_summary import MODEL_FOLDER, SUMMARY_FILE, write_summary
from pipo.runs.showing import show_file


class RunResults(pl.Callback):
    """Writes summary, curves and report, in the order of their worth, after model and held-out evaluation.

    It stands before the callbacks of the user and before the loggers end: what breaks there comes too late
    to cost a result.

    Args:
        folder: the run folder.
        export: has written the model.
        evaluation: has scored it.
        progress: knows how long the run took.
        stop: knows whether a signal ended it.
        end: knows how far it came, and whether a limit ended it.
        pages: name of a file for people -> what writes it into the run folder, in this order.

    Attributes:
        problems: each product that could not be written, and why.
    """

    def __init__(
        self,
        *,
        folder: str,
        export: ModelExport,
        evaluation: HeldOutEvaluation,
        progress: RunProgress,
        stop: GracefulStop,
        end: RunEnd,
        pages: Mapping[str, Callable[[Path], None]],
    ) -> None:
        super().__init__()
        self.pages = dict(pages)
        self.folder, self.stop, self.end = Path(folder), stop, end
        self.export, self.evaluation, self.progress = export, evaluation, progress
        self.problems: dict[str, str] = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first process writes; a run that was stopped before its budget has no summary yet."""
        if not is_first():
            return
        for name, problem in (
            (f"{MODEL_FOLDER}/", self.export.problem),
            (AFTER_FILE, self.evaluation.problem),
        ):
            if problem is not None:
                self.problems[name] = problem
        if self.evaluation.after is None:
            # A job that SLURM starts again must not be kept from that by a page that the end writes anyway.
            if self.stop.reason != REQUEUE:
                self._show()
            return
        # Until they are there, the summary names them: a program that is killed here owes them.
        self._make(SUMMARY_FILE, lambda: self._summarise([*self.problems, *self.pages]))
        self._show()
        if SUMMARY_FILE not in self.problems:
            self._make(SUMMARY_FILE, lambda: self._summarise(list(self.problems)))
        for logger in trainer.loggers:
            for name in self.pages:
                if (path := self.folder / name).exists():
                    show_file(logger, path, trainer.fit_loop.total_batch_idx)

    def _summarise(self, missing: list[str]) -> None:
        before, after = self.evaluation.before, self.evaluation.after
        assert before is not None
        assert after is not None
        assert self.end.iterations is not None
        write_summary(
            self.folder,
            iterations=self.end.iterations,
            ended_by=self.end.cause,
            seconds=self.progress.seconds,
            before=before,
            after=after,
            missing=missing,
        )

    def _show(self) -> None:
        for name, write in self.pages.items():
            self._make(name, partial(write, self.folder))

    def _make(self, name: str, write: Callable[[], object]) -> None:
        """Write one product; what the disk or a damaged file of the run refuses is kept for the end."""
        try:
            write()
        except (OSError, ValueError) as error:
            self.problems[name] = reason(error)
