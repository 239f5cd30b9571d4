"""Source of PIPO's coefficient: xi, the measured improvement, or a control that knows neither."""

from __future__ import annotations

from collections.abc import Callable

from pipo.callbacks.pipo_options import ControlOptions
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.functional.policy_improvement import Feedback, with_evidence, with_random_sign, without_feedback
from pipo.modules.hooks import IterationStats

# The feedback of an iteration, what is known of the iteration, the run's seed -> the feedback to act on.
CoefficientSource = Callable[[Feedback, IterationStats, int], Feedback]


def coefficient_source(
    options: ControlOptions, negative_scale: float, max_progress: float | None
) -> CoefficientSource:
    """What turns the published feedback into the one that is acted on.

    A control updates exactly when the method would: where the feedback is undefined it stays so.

    Args:
        options: the choice.
        negative_scale: lambda, for the evidence and for the coin's coefficient.
        max_progress: bound on them, as for the method's.
    """
    if options.feedback == "paired":
        return lambda feedback, stats, seed: with_evidence(
            feedback,
            None if stats.improvement is None else stats.improvement.evidence,
            negative_scale,
            max_progress,
        )
    if options.feedback == "constant":
        return lambda feedback, stats, seed: without_feedback(feedback, options.constant)
    if options.feedback == "random_sign":
        # The coin depends on nothing else, so that all ranks see the same side and a resumed run does too.
        return lambda feedback, stats, seed: with_random_sign(
            feedback, negative_scale, max_progress, derive_seed(seed, Purpose.SIGN, stats.iteration)
        )
    return lambda feedback, stats, seed: feedback
