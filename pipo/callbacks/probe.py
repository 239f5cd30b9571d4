"""Probe: held-out prompts scored every iteration, to measure sign agreement of the feedback."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np

from pipo.callbacks.held_out import HeldOutProblems
from pipo.distributed.processes import is_first
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.runner import gather_problems
from pipo.modules.hooks import Learner, learner
from pipo.runs.files import replace_text
from pipo.runs.run_log import PROBE_FILE, read_metrics


class Probe(pl.Callback):
    """Scores the same prompts with the same random numbers under the weights of every iteration.

    ``probe/change`` of iteration t is the reward under the weights that sampled it minus that under the
    weights before: what the updates of iteration t - 1 did. ``pipo/sign_agreement`` is 1 when the progress of
    iteration t has the same sign, ``pipo/evidence_agreement`` when the evidence has. Rewards per prompt go to
    ``probe.jsonl`` for ``pipo.evaluation.agreement``.

    Args:
        problems: the held-out problems of the probe.
        plan: of the held-out evaluation, for batches and seed.
        samples: responses per prompt.
        folder: the run folder.
        start: first iteration of this program; what was written from there on is lost work.
    """

    def __init__(
        self,
        *,
        problems: HeldOutProblems,
        plan: EvaluationPlan,
        samples: int,
        folder: str,
        start: int,
    ) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"probe.samples must be >= 1, got {samples}")
        self.problems = problems
        self.plan = plan.model_copy(
            update={"samples": samples, "ks": (1,), "resamples": 1, "majority": False}
        )
        self.path, self.start = Path(folder) / PROBE_FILE, start
        self.before: list[float] | None = None
        self.current: list[float] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The weights as they came; a resumed run has their rewards from its checkpoint."""
        module = learner(pl_module)
        if is_first() and self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["iteration"] < self.start]
            replace_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        if self.current is None:
            self.current = self._score(module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report on the weights that sampled this iteration, then score those that it left behind."""
        module = learner(pl_module)
        assert self.current is not None
        row = module.row
        row["probe/reward"] = float(np.mean(self.current))
        if self.before is not None:
            change = row["probe/reward"] - float(np.mean(self.before))
            row["probe/change"] = change
            for name, agreement in (("progress", "sign_agreement"), ("evidence", "evidence_agreement")):
                said = row.get(f"pipo/{name}", 0.0)
                if said and change:
                    row[f"pipo/{agreement}"] = float((said > 0) == (change > 0))
        if is_first():
            entry = {
                "iteration": batch_idx,
                "progress": row.get("pipo/progress"),
                "evidence": row.get("pipo/evidence"),
                "rewards": self.current,
            }
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        start = time.perf_counter()
        self.before, self.current = self.current, self._score(module)
        row["time/probe"] = time.perf_counter() - start

    def _score(self, module: Learner) -> list[float]:
        """Mean reward of each prompt, on every rank."""
        result = self.problems.evaluate(module, self.plan)
        problems = gather_problems(result.problems)
        return [float(np.mean([sample.score for sample in problem.samples])) for problem in problems]

    def state_dict(self) -> dict[str, Any]:
        """The two newest measurements cannot be made again."""
        return {"before": self.before, "current": self.current}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self.before, self.current = state_dict["before"], state_dict["current"]
