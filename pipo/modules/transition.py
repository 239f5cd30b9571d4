"""Measure what the last iteration did: the fresh batch under the weights before it (``pipo/improvement``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pipo.distributed.metrics import IterationMetrics
from pipo.functional.improvement import BOUND, Improvement, improvement, leave_one_out, transition_sums
from pipo.modules.annotator import Annotator
from pipo.modules.model_holder import ModelHolder
from pipo.records.batches import PolicyBatch
from pipo.records.rollouts import Rollouts, mixed_groups, rows_of


def look_back(
    models: ModelHolder,
    annotator: Annotator,
    rollouts: Rollouts,
    batch: PolicyBatch,
    metrics: IterationMetrics,
    ask: Callable[[Improvement | None], Sequence[bool]],
) -> tuple[Improvement | None, bool]:
    """Measure what the last iteration did, undo it if somebody wants that, and keep the weights of this one.

    What is undone leaves the weights as they were before. Adam's moments stay: with one optimiser step per
    iteration their gradients were taken at those weights or earlier ones, and with several, the later ones at
    weights on the way; the direction is what it was, and the step is shorter.

    Args:
        models: see :func:`measure_transition`, like the next three.
        annotator: scores both sides.
        rollouts: of the weights as they are now.
        batch: see :func:`measure_transition`.
        metrics: of the running iteration.
        ask: what was found, None where the batch cannot tell -> verdicts, True to undo; not asked where the
            weights have not moved.

    Returns:
        What was found, and whether the last iteration was undone.
    """
    before = models.before
    if before is None:
        return None, False
    found, undone = None, False
    with metrics.timer("look_back"):
        if before.moved:
            found = measure_transition(models, annotator, rollouts, batch)
            if found is not None:
                _log(metrics, found)
            undone = any(ask(found))
        if undone:
            before.give_back(models.policy)
        else:
            before.take(models.policy)
    return found, undone


def measure_transition(
    models: ModelHolder, annotator: Annotator, rollouts: Rollouts, batch: PolicyBatch
) -> Improvement | None:
    """What the updates since the previous batch did, on the responses of this one; all ranks together.

    Scored are the prompts whose responses differ in their rewards; where that is not even two, all that the
    batch holds, so that it is still known how far the policy went.

    Args:
        models: their ``before`` holds the weights that sampled the previous batch.
        annotator: scores both sides in the same way.
        rollouts: of the weights as they are now. Verifier rewards count, before reward terms.
        batch: what was made of them: log-probabilities of the present weights, and their sampling mask. Both
            sides are over that one, so that what is measured is the policy confined to it.

    Returns:
        The estimate; None where too few prompts are left to tell.
    """
    before = models.before
    assert before is not None
    size, sampled = rollouts.group_size, rollouts.completions.sampled
    counts = (rollouts.reward_sum, rollouts.reward_count, rollouts.varied_groups)
    total, count, varied = models.sum_over_ranks(torch.tensor(counts, dtype=torch.float64)).tolist()
    drawn = int(count) // size
    if size > 1 and varied >= 2:
        groups, eligible = mixed_groups(rollouts.rewards, size), int(varied)
    else:
        # A rank that a filter left without groups has one stand-in, whose responses have no token.
        groups = sampled.view(len(rollouts.prompts), -1).any(dim=1).nonzero()[:, 0]
        eligible = drawn
    rows = rows_of(groups, size)
    # Where the trainer scores both sides they are to be grouped alike, for other groups round otherwise; the
    # sampler's own log-probabilities, in float32, are as exact in any grouping.
    chosen = rows if models.samples_as_it_trains else None
    with before.in_place_of(models.policy):
        earlier = annotator.score(models.policy, rollouts, rows=chosen, kept=batch.kept)
    delta = ((batch.old_logprobs - earlier) * sampled)[rows].double().sum(dim=1)
    advantages = leave_one_out(rollouts.rewards[rows], size, total, int(count))
    sums = models.sum_over_ranks(transition_sums(advantages, delta, size, BOUND))
    return improvement(sums, size, eligible, drawn)


def _log(metrics: IterationMetrics, found: Improvement) -> None:
    """Write ``pipo/improvement`` with its standard error, ``pipo/evidence`` and how far the policy went."""
    metrics.add("pipo/improvement", found.change)
    metrics.add("pipo/improvement_se", found.error)
    metrics.add("pipo/evidence", found.evidence)
    metrics.add("pipo/distance", found.distance)
    metrics.add("pipo/spread", found.spread)
    metrics.add("pipo/slope_before", found.slope_before)
    metrics.add("pipo/slope_after", found.slope_after)
