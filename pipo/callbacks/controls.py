"""Controls for PIPO: the retrospective update with a constant or random-sign coefficient."""

from __future__ import annotations

from collections.abc import Callable

from pipo.callbacks.pipo_options import ControlOptions
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.functional.policy_improvement import Feedback, with_random_sign, without_feedback

# The feedback of an iteration, the run's seed and the iteration -> the feedback to act on.
CoefficientSource = Callable[[Feedback, int, int], Feedback]


def coefficient_source(
    options: ControlOptions, negative_scale: float, max_progress: float | None
) -> CoefficientSource:
    """What turns the measured feedback into the one that is acted on.

    A control updates exactly when the method would: where the feedback is undefined it stays so.

    Args:
        options: the choice.
        negative_scale: lambda, for the coin's coefficient.
        max_progress: bound on it, as for the method's.
    """
    if options.feedback == "constant":
        return lambda feedback, seed, iteration: without_feedback(feedback, options.constant)
    if options.feedback == "random_sign":
        # The coin depends on nothing else, so that all ranks see the same side and a resumed run does too.
        return lambda feedback, seed, iteration: with_random_sign(
            feedback, negative_scale, max_progress, derive_seed(seed, Purpose.SIGN, iteration)
        )
    return lambda feedback, seed, iteration: feedback
