"""Log PIPO's feedback: metrics, reasons for skipped updates, a warning when xi is unusually large."""

from __future__ import annotations

import logging
import math

from pipo.distributed.metrics import IterationMetrics
from pipo.functional.policy_improvement import Feedback

log = logging.getLogger(__name__)

# Beyond this many standard deviations the window is suspiciously quiet.
UNUSUAL_PROGRESS = 10.0


class FeedbackLog:
    """Writes ``pipo/history_mean``, ``history_std``, ``progress`` and ``coefficient``.

    Args:
        warns: whether to say, once, that the progress is unusually large; it has no say in paired feedback.
    """

    def __init__(self, *, warns: bool) -> None:
        self._warned = not warns

    def write(self, metrics: IterationMetrics, feedback: Feedback) -> None:
        """Add one iteration's feedback; what is undefined is left out."""
        metrics.add("pipo/history_mean", feedback.history_mean)
        metrics.add("pipo/history_std", feedback.history_std)
        if not math.isnan(feedback.progress):
            metrics.add("pipo/progress", feedback.progress)
        if feedback.defined:
            metrics.add("pipo/coefficient", feedback.coefficient)
        if abs(feedback.progress) > UNUSUAL_PROGRESS and not self._warned:
            self._warned = True
            log.warning(
                "progress is %.1f standard deviations (the window's is %.2g); "
                "pipo.max_progress bounds it. This is said once.",
                feedback.progress,
                feedback.history_std,
            )

    def skipped(self, iteration: int, reason: str) -> None:
        """Say why an iteration has no retrospective update."""
        log.info("iteration %d: no retrospective update, %s", iteration, reason)
