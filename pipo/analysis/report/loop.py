"""The closed loop of a run in numbers, and the seconds of its phases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipo.analysis.report.run_files import RunFiles
from pipo.analysis.run_metrics import Run
from pipo.evaluation.agreement import Agreement, TooFewIterations, agreement, probe_arrays

# Phases of an iteration in their order, and what they are.
_PHASES = {
    "generate": "sampling responses",
    "environment": "waiting for environments to answer",
    "score": "grading them",
    "annotate": "log-probabilities and advantages",
    "look_back": "measuring what the last iteration did",
    "retrospective": "PIPO's update on the previous batch",
    "update": "the base update",
    "critic": "the critic's update",
    "sync": "handing weights to the sampler",
}


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The closed loop in numbers."""

    iterations: int
    """Iterations that were logged."""
    applied: int
    """How many of them made a retrospective update."""
    improved: int
    """Iterations whose batch was better than its window."""
    worse: int
    """Iterations whose batch was worse."""
    level: int
    """Iterations whose batch was exactly as good as its window."""
    undefined: int
    """Iterations without a verdict: the window was not full, or did not vary."""
    mean_coefficient: float
    """Mean coefficient over the iterations with a verdict."""
    mean_size: float
    """Mean of the coefficient's absolute value."""
    largest_progress: float
    """Largest absolute progress, in standard deviations."""
    time_share: float
    """Share of the retrospective updates in the iterations' time."""
    slowdown: float
    """An iteration's time over that without them."""
    agreement: Agreement | None
    """Agreement of the progress with the probe; None without a probe or with too little to compare."""


@dataclass(frozen=True, kw_only=True)
class LookBack:
    """What the measurement of the last iteration said, in numbers."""

    measured: int
    """Iterations that were measured and not undone."""
    positive: float
    """Share of them whose evidence is above zero."""
    mean_evidence: float
    """Mean evidence, in standard errors."""
    total: float
    """Sum of the measured changes of the mean reward."""
    total_error: float
    """Its standard error; the batches are drawn apart."""
    undone: int
    """Iterations that were undone."""
    rate_factor: float | None
    """Factor on the recipe's learning rate at the end; None without step control."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the run's time."""

    name: str
    """Name of the phase, as in ``time/<name>``."""
    what: str
    """The same in words."""
    seconds: float
    """Seconds in all."""
    per_iteration: float
    """Mean seconds over the logged iterations."""
    share: float
    """Share of the whole run, 0 to 1."""


def find_loop(files: RunFiles) -> Loop | None:
    """None for a run without PIPO, or without metrics."""
    run = files.run
    if run is None or not len(run.series("pipo/applied")[1]):
        return None
    progress, coefficient = run.series("pipo/progress")[1], run.series("pipo/coefficient")[1]
    spent, extra = (
        run.values("time/iteration", missing=0.0).sum(),
        run.values("time/retrospective", missing=0.0).sum(),
    )
    return Loop(
        iterations=len(run.rows),
        applied=int(run.series("pipo/applied")[1].sum()),
        improved=int((progress > 0).sum()),
        worse=int((progress < 0).sum()),
        level=int((progress == 0).sum()),
        undefined=len(run.rows) - len(progress),
        mean_coefficient=float(coefficient.mean()) if len(coefficient) else 0.0,
        mean_size=float(np.abs(coefficient).mean()) if len(coefficient) else 0.0,
        largest_progress=float(np.abs(progress).max()) if len(progress) else 0.0,
        time_share=float(extra / spent) if spent else 0.0,
        slowdown=float(spent / (spent - extra)) if spent > extra else 1.0,
        agreement=_agreement(files),
    )


def find_look_back(files: RunFiles) -> LookBack | None:
    """None for a run that did not measure, or without metrics."""
    run = files.run
    if run is None or not len(run.series("pipo/evidence")[1]):
        return None
    undone, factor = run.values("pipo/undone", missing=0.0) == 1, run.series("pipo/rate_factor")[1]
    # What was undone did nothing.
    evidence, change, error = (
        values[np.isfinite(values) & ~undone]
        for values in map(run.values, ("pipo/evidence", "pipo/improvement", "pipo/improvement_se"))
    )
    if not len(evidence):
        return None
    return LookBack(
        measured=len(evidence),
        positive=float((evidence > 0).mean()),
        mean_evidence=float(evidence.mean()),
        total=float(change.sum()),
        total_error=float(np.sqrt((error**2).sum())),
        undone=int(undone.sum()),
        rate_factor=float(factor[-1]) if len(factor) else None,
    )


def _agreement(files: RunFiles) -> Agreement | None:
    """Whether the progress had the sign of what the probe saw; None with too little to compare."""
    if len(files.probe) < 2:
        return None
    how = {name: files.config.evaluation[name] for name in ("confidence", "resamples", "seed")}
    try:
        # Neighbours whose windows overlap are drawn together.
        return agreement(*probe_arrays(files.probe), window=1, block=int(files.config.pipo.window), **how)
    except TooFewIterations:
        return None


def find_phases(files: RunFiles) -> list[Phase]:
    """Every phase that was timed, and what remains; empty without metrics."""
    run = files.run
    if run is None:
        return []
    timed = {name: _total(run, f"time/{name}") for name in _PHASES}
    between = max(0.0, _total(run, "time/iteration") - sum(timed.values()))
    rows = [(name, _PHASES[name], seconds) for name, seconds in timed.items() if seconds]
    rows += [("between", "what lies between these", between)]
    rows += [("evaluate", "held-out accuracy during the run", _total(run, "time/evaluate"))]
    rows += [("probe", "scoring the probe after every iteration", _total(run, "time/probe"))]
    if files.summary is not None:
        rest = files.summary["seconds"] - sum(seconds for _, _, seconds in rows)
        rows += [("around", "evaluations before and after, checkpoints, export", max(0.0, rest))]
    total = sum(seconds for _, _, seconds in rows)
    return [
        Phase(
            name=name,
            what=what,
            seconds=seconds,
            per_iteration=seconds / len(run.rows),
            share=seconds / total,
        )
        for name, what, seconds in rows
        if seconds
    ]


def _total(run: Run, metric: str) -> float:
    return float(run.series(metric)[1].sum())
