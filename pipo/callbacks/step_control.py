"""Step control: the learning rate follows the measured improvement, and a harmful transition is undone."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import mpmath

from pipo.callbacks.step_options import Rejection, StepControlOptions
from pipo.errors import ConfigError
from pipo.functional.improvement import Improvement
from pipo.functional.step_control import StepSize, followed, shrunk
from pipo.functional.students_t import below
from pipo.modules.hooks import IterationStats, Learner, RolloutCallback, learner
from pipo.records.batches import PolicyBatch
from pipo.records.rollouts import Rollouts

log = logging.getLogger(__name__)


class StepControl(RolloutCallback):
    """Moves the module's ``rate_factor``; the mathematics is in :mod:`pipo.functional.step_control`.

    What it knows is the same on every rank, and so is what it does.
    """

    def __init__(self, options: StepControlOptions) -> None:
        super().__init__()
        self.options = options
        self.size = StepSize()
        self.mean_reward: float | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a module that does not measure."""
        if learner(pl_module).look_back is None:
            raise ConfigError("step control needs a module that looks back: PolicyModule(look_back='device')")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run goes on at the rate that it had come to."""
        learner(pl_module).rate_factor = self.size.factor

    def on_look_back(
        self, trainer: pl.Trainer, module: Learner, improvement: Improvement | None, mean_reward: float
    ) -> bool:
        """Follow the evidence, or have the last iteration undone and shrink the rate."""
        rejection, reason = self.options.rejection, None
        if rejection is not None:
            reason = objection(rejection, improvement, mean_reward, self.mean_reward)
        if rejection is not None and reason is not None:
            self.size = shrunk(self.size, rejection.shrink, self.options)
            iteration = trainer.fit_loop.total_batch_idx
            log.warning(
                "iteration %d: what iteration %d did is undone, %s; the learning rate is now %.3g times the "
                "recipe's",
                iteration,
                iteration - 1,
                reason,
                self.size.factor,
            )
        elif improvement is not None:
            evidence = improvement.evidence_of_slope(self.options.slope_left)
            self.size = followed(self.size, evidence, self.options)
            module.metrics.add("pipo/step_evidence", evidence)
        module.rate_factor = self.size.factor
        return reason is not None

    def on_rollouts_ready(
        self,
        trainer: pl.Trainer,
        module: Learner,
        rollouts: Rollouts,
        batch: PolicyBatch,
        stats: IterationStats,
    ) -> None:
        """Log where the control stands."""
        module.metrics.add("pipo/rate_factor", self.size.factor)
        module.metrics.add("pipo/undone", float(stats.undone))
        if not stats.undone:
            self.mean_reward = stats.mean_reward

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"size": asdict(self.size), "mean_reward": self.mean_reward}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self.size, self.mean_reward = StepSize(**state_dict["size"]), state_dict["mean_reward"]


def objection(
    rejection: Rejection, improvement: Improvement | None, mean_reward: float, earlier: float | None
) -> str | None:
    """What is wrong with a transition; None for nothing.

    Args:
        rejection: the limits.
        improvement: what it did, if that could be measured.
        mean_reward: mu of the batch after it.
        earlier: mu of the batch before it; None at the beginning.
    """
    if improvement is None:
        if mean_reward != 0 or not earlier:
            return None
        return f"because no response has any reward any more (the mean was {earlier:.3f})"
    if not improvement.spread <= rejection.most_spread:  # also what is no number
        return f"because it was too long to be judged (spread {improvement.spread:.2f} nats)"
    # The error is an estimate itself: from few prompts, large values of z are no rare chance.
    if below(improvement.prompts - 1, improvement.evidence) < mpmath.ncdf(-rejection.most_harm):
        return f"because it did harm ({improvement.change:+.4f}, {improvement.evidence:+.1f} standard errors)"
    return None
