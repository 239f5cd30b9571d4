"""A word on the terminal when responses could not be graded for the machine's sake."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipo.records.problems import Reward

_LOG = logging.getLogger(__name__)


def warn_of_machine(task: str, verdicts: Sequence[Reward]) -> None:
    """Say how many verdicts of a batch are the machine's fault, and what was wrong with the first.

    Args:
        task: name of the task.
        verdicts: of one batch.
    """
    reasons = [verdict.error for verdict in verdicts if verdict.infrastructure]
    if reasons:
        _LOG.warning(
            "%s: %d of %d responses could not be graded, which is the machine's fault and not theirs, and "
            "score 0 (the first: %s)",
            task,
            len(reasons),
            len(verdicts),
            reasons[0],
        )
