"""PIPO: compare each batch with the recent past, and re-use the previous batch accordingly.

Policy Improvement Reinforcement Learning, arXiv 2604.00860, algorithm 1. The callback holds the window and
the previous batch; the update itself is ``PolicyModule.policy_update`` with other advantages, so it runs
through the base objective's own ratio, clipping and aggregation.
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from pipo.distributed.collectives import gather, own_part, world
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.errors import ConfigError
from pipo.functional.policy_improvement import (
    Feedback,
    policy_improvement_feedback,
    policy_improvement_reward,
    with_random_sign,
    without_feedback,
)
from pipo.functional.row_sampling import sampled_attribution
from pipo.modules.batching import mini_batches
from pipo.modules.hooks import IterationStats, RolloutCallback
from pipo.modules.policy_module import PolicyModule
from pipo.records.batches import PolicyBatch
from pipo.records.rollouts import Rollouts

log = logging.getLogger(__name__)

# Beyond this many standard deviations the window is suspiciously quiet; said once.
UNUSUAL_PROGRESS = 10.0


FeedbackKind = Literal["progress", "constant", "random_sign"]


class PIPOCallback(RolloutCallback):
    """The closed loop.

    Args:
        window: K, how many past mean rewards the newest is compared with; also how many iterations pass
            before the first comparison.
        negative_scale: lambda, factor on the feedback after a drop.
        lr_scale: learning rate of the retrospective update, relative to the base update's.
        kl_coef: weight of a KL penalty in the retrospective update.
        mini_batch: responses per retrospective optimiser step; None for the base update's.
        max_progress: clamp on the feedback in standard deviations; None for none.
        feedback: what the coefficient follows: ``progress`` is the method; ``constant`` and ``random_sign``
            are controls, the same extra update without what the feedback knows.
        constant: the coefficient of ``constant``.
        row_fraction: share of the rows with attribution that the retrospective update draws and reweights,
            as an unbiased estimate of the update on all of them; 1 is that update itself.
        rows_follow_coefficient: multiply ``row_fraction`` by min(1, |coefficient|). The estimate's variance
            is the coefficient's square over the number of rows, so that the rows go where they count.
    """

    def __init__(
        self,
        *,
        window: int,
        negative_scale: float,
        lr_scale: float,
        kl_coef: float,
        mini_batch: int | None,
        max_progress: float | None,
        feedback: FeedbackKind,
        constant: float,
        row_fraction: float,
        rows_follow_coefficient: bool,
    ) -> None:
        super().__init__()
        if window < 2:
            raise ValueError(f"pipo.window must be >= 2 for a standard deviation, got {window}")
        if not 0 <= negative_scale <= 1:
            raise ValueError(f"pipo.lambda must lie in [0, 1], got {negative_scale}")
        if not 0 < lr_scale < math.inf:
            raise ValueError(f"pipo.lr_scale must be positive and finite, got {lr_scale}")
        if not 0 <= kl_coef < math.inf:
            raise ValueError(f"pipo.kl_coef must be >= 0 and finite, got {kl_coef}")
        if mini_batch is not None and mini_batch < 1:
            raise ValueError(f"pipo.mini_batch must be >= 1 or null, got {mini_batch}")
        if max_progress is not None and not max_progress > 0:
            raise ValueError(f"pipo.max_progress must be positive or null, got {max_progress}")
        if not 0 < row_fraction <= 1:
            raise ValueError(f"pipo.row_fraction must lie in (0, 1], got {row_fraction}")
        if kl_coef and (row_fraction < 1 or rows_follow_coefficient):
            raise ValueError(
                f"pipo.kl_coef={kl_coef} needs pipo.row_fraction=1 and pipo.rows_follow_coefficient=false: "
                "the penalty covers all rows of the batch, also those that are never drawn"
            )
        self.negative_scale, self.max_progress = negative_scale, max_progress
        self.feedback_kind, self.constant = feedback, constant
        self.lr_scale, self.kl_coef, self.mini_batch = lr_scale, kl_coef, mini_batch
        self.row_fraction, self.rows_follow_coefficient = row_fraction, rows_follow_coefficient
        self.history: deque[float] = deque(maxlen=window)
        self.previous: PolicyBatch | None = None
        self._warned = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A KL term in the retrospective update needs the reference that only the objective loads."""
        assert isinstance(pl_module, PolicyModule)
        if self.mini_batch is not None:
            pl_module.own_mini_batch(self.mini_batch)
        if self.kl_coef and not pl_module.objective.needs_reference:
            raise ConfigError(
                "pipo.kl_coef needs a reference model, which only an objective with a KL term loads"
            )

    def on_rollouts_ready(
        self,
        trainer: pl.Trainer,
        module: PolicyModule,
        rollouts: Rollouts,
        batch: PolicyBatch,
        stats: IterationStats,
    ) -> None:
        """Verify the last update, act on the verdict, and remember this batch."""
        if not stats.policy_learns:
            return  # the policy stands still, so there is no improvement to look for
        applied = False
        if self.previous is not None and len(self.history) == self.history.maxlen:
            feedback = self._feedback(stats, module.seed)
            self._report(module, feedback)
            applied = self._retrospective_update(module, self.previous, feedback, stats.iteration)
        module.metrics.add("pipo/applied", float(applied))
        self.history.append(stats.mean_reward)
        # Kept with the attribution in place of the advantages (one tensor for both), on the CPU like every
        # batch, and without what only a base update needs: 18 bytes per response position, 22 with a KL term.
        self.previous = batch.reweighted(batch.attribution, kl_coef=self.kl_coef)

    def _feedback(self, stats: IterationStats, seed: int) -> Feedback:
        """The method's feedback, or a control made from it."""
        feedback = policy_improvement_feedback(
            stats.mean_reward, self.history, self.negative_scale, self.max_progress
        )
        if self.feedback_kind == "constant":
            return without_feedback(feedback, self.constant)
        if self.feedback_kind == "random_sign":
            coin = derive_seed(seed, Purpose.SIGN, stats.iteration)
            return with_random_sign(feedback, self.negative_scale, self.max_progress, coin)
        return feedback

    def _retrospective_update(
        self, module: PolicyModule, previous: PolicyBatch, feedback: Feedback, iteration: int
    ) -> bool:
        """One more clipped update on the previous batch; returns whether it was made."""
        attributed = module.sum_over_ranks((previous.attribution != 0).any(dim=1).sum())
        reason = None
        if not feedback.defined:
            reason = "the mean reward did not vary within the window"
        elif feedback.coefficient == 0:
            reason = "the coefficient is zero"
        elif attributed == 0:
            reason = "no response of the previous batch carries attribution"
        if reason is not None:
            # Nothing is computed and nothing stepped: weights and optimiser state stay as they are.
            log.info("iteration %d: no retrospective update, %s", iteration, reason)
            return False
        with module.metrics.timer("retrospective"):
            attribution = self._drawn(module, previous, feedback.coefficient, iteration)
            reward = policy_improvement_reward(attribution, feedback.coefficient)
            steps = module.policy_update(
                previous.reweighted(reward, kl_coef=self.kl_coef),
                prefix="pipo",
                lr_scale=self.lr_scale,
                mini_batch=self.mini_batch,
            )
        return steps > 0

    def _drawn(
        self, module: PolicyModule, previous: PolicyBatch, coefficient: float, iteration: int
    ) -> Tensor:
        """The attribution, or an unbiased estimate of it that leaves most rows out.

        Every optimiser step has a draw of its own: its gradient is right on average at the weights it meets,
        though these depend on the draws before it. A rank that draws nothing takes part without rows.
        """
        fraction = self.row_fraction
        if self.rows_follow_coefficient:
            fraction *= min(1.0, abs(coefficient))
        if fraction == 1:
            return previous.attribution
        size = module.own_mini_batch(self.mini_batch or module.batching.mini_batch)
        draws = random.Random(derive_seed(module.seed, Purpose.ROWS, iteration, world()[0]))
        parts = [
            sampled_attribution(
                previous.attribution[rows],
                previous.sampled[rows],
                fraction,
                draws.random(),
            )
            for rows in mini_batches(len(previous), size)
        ]
        return torch.cat(parts)

    def _report(self, module: PolicyModule, feedback: Feedback) -> None:
        module.metrics.add("pipo/history_mean", feedback.history_mean)
        module.metrics.add("pipo/history_std", feedback.history_std)
        if not feedback.defined:
            return
        module.metrics.add("pipo/progress", feedback.progress)
        module.metrics.add("pipo/coefficient", feedback.coefficient)
        if abs(feedback.progress) > UNUSUAL_PROGRESS and not self._warned:
            self._warned = True
            log.warning(
                "progress is %.1f standard deviations (the window's is %.2g); "
                "pipo.max_progress bounds it. This is said once.",
                feedback.progress,
                feedback.history_std,
            )

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the window and *every* rank's previous batch; Lightning itself keeps only rank 0's."""
        mine = None if self.previous is None else self.previous.to_plain()
        if mine is not None:
            del mine["advantages"]  # they are the attribution
        checkpoint["pipo"] = {"history": list(self.history), "previous": gather(mine)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the memory up where it was left."""
        state = checkpoint["pipo"]
        stored = own_part(state["previous"])
        self.history.extend(state["history"])
        if stored is not None:
            self.previous = PolicyBatch.from_plain({**stored, "advantages": stored["attribution"]})
