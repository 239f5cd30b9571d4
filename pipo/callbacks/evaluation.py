"""Held-out accuracy: in full before and after the run, and as a curve in between."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
from rich.console import Console

from pipo.callbacks.held_out import HeldOutProblems
from pipo.evaluation.results import EvaluationPlan, Summary
from pipo.modules.distributed import world
from pipo.modules.policy_module import PolicyModule


class HeldOutEvaluation(pl.Callback):
    """Scores the same held-out problems with the same random numbers every time.

    Args:
        problems: what is scored.
        plan: of the evaluations before and after.
        every: iterations between two points of the curve.
        curve_samples: responses per problem for a point of the curve.
    """

    def __init__(
        self,
        *,
        problems: HeldOutProblems,
        plan: EvaluationPlan,
        every: int,
        curve_samples: int,
    ) -> None:
        super().__init__()
        if every < 1 or curve_samples < 1:
            raise ValueError(f"every and curve_samples must be >= 1, got {every} and {curve_samples}")
        self.problems, self.plan, self.every = problems, plan, every
        self.curve_plan = replace(plan, samples=curve_samples, ks=(1,), majority=False)
        self.before: Summary | None = None
        self.after: Summary | None = None

    def _measure(self, module: PolicyModule, when: str) -> Summary:
        """A full evaluation, with a word on the terminal about what takes so long."""
        console = Console(quiet=world()[0] != 0)
        problems = len(self.problems.examples)
        responses = problems * self.plan.samples
        console.print(f"{when} training: {problems} held-out problems, {responses} responses ...", end=" ")
        summary = self.problems.evaluate(module, self.plan).to_summary()
        console.print(f"pass@1 {summary['pass@1']:.3f}")
        return summary

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The model as it came; a resumed run has it from its checkpoint."""
        assert isinstance(pl_module, PolicyModule)
        if self.before is None:
            self.before = self._measure(pl_module, "before")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A point of the curve when due, in the same row as the iteration's other metrics."""
        assert isinstance(pl_module, PolicyModule)
        if (batch_idx + 1) % self.every:
            return
        start = time.perf_counter()
        result = self.problems.evaluate(pl_module, self.curve_plan)
        accuracy = result.pass_at_k[1]
        values = {
            "eval/pass@1": accuracy.value,
            "eval/pass@1_low": accuracy.low,
            "eval/pass@1_high": accuracy.high,
            "eval/response_length": result.response_length.value,
            "time/evaluate": time.perf_counter() - start,
        }
        values |= {f"eval/level_{name}/pass@1": level.accuracy.value for name, level in result.levels.items()}
        pl_module.row |= values

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The model as it is now, unless the run was stopped before its budget."""
        assert isinstance(pl_module, PolicyModule)
        if not trainer.should_stop:
            self.after = self._measure(pl_module, "after")

    def state_dict(self) -> dict[str, Any]:
        """The first evaluation goes into the checkpoints, because it cannot be made again."""
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the first evaluation over."""
        self.before = state_dict["before"]
