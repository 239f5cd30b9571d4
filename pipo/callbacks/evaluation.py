"""Held-out accuracy: in full before and after the run, and as a curve during training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.console import Console

from pipo.callbacks.held_out import HeldOutProblems
from pipo.distributed.collectives import all_gather, gather
from pipo.distributed.processes import is_first
from pipo.errors import reason
from pipo.evaluation.held_out import (
    AFTER_FILE,
    BEFORE_FILE,
    held_out_record,
    read_record,
    typical_response,
    write_record,
)
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.results import EvaluationResult, Summary
from pipo.modules.hooks import Learner, learner

log = logging.getLogger(__name__)


class HeldOutEvaluation(pl.Callback):
    """Scores the same held-out problems with the same random numbers every time.

    Args:
        problems: what is scored.
        plan: of the evaluations before and after.
        every: iterations between two points of the curve.
        curve_samples: responses per problem for a point of the curve.
        folder: the run folder, where the evaluations before and after leave their records.
        answers: how many of the first problems are recorded with a response.
        interrupted: whether a signal ends this start of the program; what else stops it ends the run.

    Attributes:
        before: the evaluation before the run.
        after: the one after it; None for a run that was stopped before its budget.
        problem: why the record of the one after could not be written; None when it was.
    """

    def __init__(
        self,
        *,
        problems: HeldOutProblems,
        plan: EvaluationPlan,
        every: int,
        curve_samples: int,
        folder: str,
        answers: int,
        interrupted: Callable[[], bool],
    ) -> None:
        super().__init__()
        if every < 1 or curve_samples < 1:
            raise ValueError(f"every and curve_samples must be >= 1, got {every} and {curve_samples}")
        if answers < 0:
            raise ValueError(f"answers must be >= 0, got {answers}")
        self.folder, self.answers, self.interrupted = Path(folder), answers, interrupted
        self.problems, self.plan, self.every = problems, plan, every
        self.curve_plan = plan.model_copy(update={"samples": curve_samples, "ks": (1,), "majority": False})
        self.before: Summary | None = None
        self.after: Summary | None = None
        self.problem: str | None = None
        self._first = 0

    def _measure(self, module: Learner, when: str, iterations: int) -> Summary:
        """A full evaluation, with a word on the terminal about what takes so long, and its record."""
        console = Console(quiet=not is_first())
        problems = len(self.problems.examples)
        responses = problems * self.plan.samples
        console.print(f"{when} training: {problems} held-out problems, {responses} responses ...", end=" ")
        try:
            result = self.problems.evaluate(module, self.plan)
        except BaseException:
            console.print()  # what is said about it begins a line
            raise
        summary = result.to_summary()
        console.print(f"pass@1 {summary['pass@1']:.3f}")
        self._record(result, summary, BEFORE_FILE if when == "before" else AFTER_FILE, iterations)
        return summary

    def _record(self, result: EvaluationResult, summary: Summary, name: str, iterations: int) -> None:
        """Collect from every process what is kept of each problem, and write it."""
        solved = {problem.index: problem.solved for problem in result.problems}
        responses = [typical_response(problem) for problem in result.problems if problem.index < self.answers]
        parts = gather((solved, responses))
        if is_first():
            record = held_out_record(parts, summary, self.plan.samples, iterations)
            try:
                write_record(self.folder / name, record)
            except OSError as error:
                if name == BEFORE_FILE:  # nothing is lost that early
                    raise
                self.problem = reason(error)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The model as it came; a resumed run has it from its checkpoint."""
        module = learner(pl_module)
        self._first = trainer.fit_loop.total_batch_idx + 1
        if self.before is None:
            self.before = self._measure(module, "before", 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A point of the curve when due, in the same row as the iteration's other metrics."""
        module = learner(pl_module)
        if (batch_idx + 1) % self.every:
            return
        start = time.perf_counter()
        result = self.problems.evaluate(module, self.curve_plan)
        accuracy = result.pass_at_k[1]
        values = {
            "eval/pass@1": accuracy.value,
            "eval/pass@1_low": accuracy.low,
            "eval/pass@1_high": accuracy.high,
            "eval/response_length": result.response_length.value,
            "time/evaluate": time.perf_counter() - start,
        }
        values |= {f"eval/level_{name}/pass@1": level.accuracy.value for name, level in result.levels.items()}
        module.row |= values

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The model as it is now, unless a signal says that there is no time for that."""
        module = learner(pl_module)
        if self.interrupted():
            return
        done = trainer.fit_loop.total_batch_idx + 1
        self.after = self._measured_before(done) or self._measure(module, "after", done)

    def _measured_before(self, done: int) -> Summary | None:
        """What an earlier program found after as many iterations, if this one has made none."""
        if done != self._first:
            return None
        path, found = self.folder / AFTER_FILE, None
        if is_first() and path.exists():
            try:
                record = read_record(path)
            except ValueError as error:
                log.warning("%s; the held-out problems are scored again", error)
            else:
                found = record.summary if record.iterations == done else None
        return all_gather(found)[0]

    def state_dict(self) -> dict[str, Any]:
        """The first evaluation goes into the checkpoints, because it cannot be made again."""
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the first evaluation over."""
        self.before = state_dict["before"]
