"""PIPO, the closed loop: policy improvement feedback and the retrospective update on the previous batch.

Policy Improvement Reinforcement Learning, arXiv 2604.00860, algorithm 1: iteration t, after B_t is sampled
from pi_theta_t and graded; mu_his and sigma_his are mean and sample deviation of mu_{t-K} .. mu_{t-1}.

    (1)  xi_t      = (mu_t - mu_his) / sigma_his     policy improvement feedback: is B_t better than the past?
    (2)  phi(xi)   = xi if xi >= 0 else lambda xi    coefficient
    (3)  r_hat_i   = s_{t-1,i} phi(xi_t)             policy improvement reward of the responses of B_{t-1}
    (4)  theta'_t  = theta_t + alpha_PI grad J_PI    J_PI = agg( min( nu r_hat, clip(nu) r_hat ) ) on B_{t-1}
    (5)  theta_t+1 = theta'_t + alpha grad J(B_t)    the base objective's update
    (6)  mu_t joins the window; B_t is the previous batch of the next iteration

(4) is ``policy_update`` with other advantages: the base objective's own ratio nu, clip range, aggregation and
optimiser. The mathematics of (1) to (3) is in ``pipo.functional.policy_improvement``, s in the objectives.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from pipo.callbacks.coefficient import coefficient_source
from pipo.callbacks.feedback_log import FeedbackLog
from pipo.callbacks.pipo_options import PipoOptions
from pipo.callbacks.row_sampling import row_chooser
from pipo.distributed.collectives import gather, own_part
from pipo.errors import ConfigError
from pipo.functional.policy_improvement import (
    Feedback,
    policy_improvement_feedback,
    policy_improvement_reward,
)
from pipo.modules.hooks import IterationStats, Learner, RolloutCallback, learner
from pipo.records.batches import PolicyBatch
from pipo.records.rollouts import Rollouts


class PIPOCallback(RolloutCallback):
    """Closes the loop around any base objective; without it, the run is the baseline bit for bit."""

    def __init__(self, options: PipoOptions) -> None:
        super().__init__()
        self.options = options
        self.coefficient_source = coefficient_source(options, options.negative_scale, options.max_progress)
        self.rows = row_chooser(options, options.mini_batch)
        self.history: deque[float] = deque(maxlen=options.window)
        self.previous: PolicyBatch | None = None
        self._log = FeedbackLog(warns=options.feedback != "paired")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what ranks cannot share, and a KL penalty without the reference that an objective loads."""
        module = learner(pl_module)
        module.own_mini_batch(self.options.mini_batch or module.batching.mini_batch)
        if self.options.kl_coef and not module.objective.needs_reference:
            raise ConfigError("pipo.kl_coef needs a reference model, which only an objective with KL loads")

    def on_rollouts_ready(
        self, trainer: Trainer, module: Learner, rollouts: Rollouts, batch: PolicyBatch, stats: IterationStats
    ) -> None:
        """(1) to (4) and (6); the module goes on with (5)."""
        if not stats.policy_learns:
            return  # the policy stands still or was put back, so there is no improvement to look for
        applied = False
        if self.previous is not None and len(self.history) == self.options.window:
            scale, bound = self.options.negative_scale, self.options.max_progress
            feedback = policy_improvement_feedback(  # (1), (2)
                stats.mean_reward,
                self.history,
                scale,
                bound,
                deviation=self.options.deviation,
            )
            feedback = self.coefficient_source(feedback, stats, module.seed)
            self._log.write(module.metrics, feedback)
            applied = self._verify(module, self.previous, feedback, stats.iteration)
        module.metrics.add("pipo/applied", float(applied))
        self.history.append(stats.mean_reward)  # (6)
        # Kept with s in place of the advantages (one tensor for both), on the CPU like every batch, and
        # without what only a base update needs: 18 bytes per response position, 22 with a KL term.
        self.previous = batch.reweighted(batch.attribution, kl_coef=self.options.kl_coef)

    def _verify(self, module: Learner, previous: PolicyBatch, feedback: Feedback, iteration: int) -> bool:
        """(3) and (4); returns whether a step was made. What is skipped leaves Adam's state alone, too."""
        reason = None
        if not feedback.defined:
            reason = "there is nothing to compare with"
        elif feedback.coefficient == 0:
            reason = "the coefficient is zero"
        elif module.sum_over_ranks((previous.attribution != 0).any(dim=1).sum()) == 0:
            reason = "no response of the previous batch carries attribution"
        if reason is not None:
            self._log.skipped(iteration, reason)
            return False
        with module.metrics.timer("retrospective"):
            s = self.rows(module, previous, feedback.coefficient, iteration)
            r_hat = policy_improvement_reward(s, feedback.coefficient)  # (3)
            steps = module.policy_update(  # (4)
                previous.reweighted(
                    r_hat,
                    kl_coef=self.options.kl_coef,
                    plain_minimum=self.options.clip == "authors" and module.objective.authors_minimum,
                ),
                prefix="pipo",
                lr_scale=self.options.lr_scale,
                mini_batch=self.options.mini_batch,
            )
        return steps > 0

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the window and *every* rank's previous batch; Lightning itself keeps only rank 0's."""
        mine = None if self.previous is None else self.previous.to_plain()
        if mine is not None:
            del mine["advantages"]  # they are the attribution
        checkpoint["pipo"] = {"history": list(self.history), "previous": gather(mine)}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the memory up where it was left."""
        self.history.extend(checkpoint["pipo"]["history"])
        if (stored := own_part(checkpoint["pipo"]["previous"])) is not None:
            self.previous = PolicyBatch.from_plain({**stored, "advantages": stored["attribution"]})
