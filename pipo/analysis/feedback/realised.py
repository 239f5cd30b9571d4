"""Realised sign agreement of a run that measured fixed prompts under the weights of every iteration."""

from __future__ import annotations

import numpy as np

from pipo.analysis.feedback.curve import Curve
from pipo.analysis.feedback.model import RESAMPLES
from pipo.errors import ConfigError
from pipo.evaluation.agreement import Agreement, TooFewIterations, agreement, probe_arrays
from pipo.evaluation.over_seeds import CONFIDENCE
from pipo.evaluation.statistics import Floats
from pipo.runs.run_log import read_metrics


def realised(curve: Curve, progress: Floats, window: int) -> dict[int, Agreement]:
    """Window that the change is measured against -> agreement; empty without a probe or with too short a one.

    The progress is that of this curve and window, so that runs that did not use the feedback have one, too.
    """
    if curve.probe is None:
        return {}
    try:
        rows = read_metrics(curve.probe)
        _, rewards = probe_arrays(rows)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{curve.probe}: cannot be read as a probe ({error})") from error
    if rewards.ndim != 2:
        raise ConfigError(f"{curve.probe}: rows with different numbers of prompts; remove the older ones")
    known = dict(zip(curve.steps.tolist(), progress, strict=True))
    xi = np.array([known.get(int(row["iteration"]), np.nan) for row in rows])
    if len(rows) <= window:
        return {}
    try:
        return {
            span: agreement(
                xi,
                rewards,
                window=span,
                block=window,
                confidence=CONFIDENCE,
                resamples=RESAMPLES,
                seed=0,
            )
            for span in (1, window)
        }
    except TooFewIterations:
        return {}
