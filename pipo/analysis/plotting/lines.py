"""Panels of lines: a metric over iterations, held-out accuracy over iterations and over seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pipo.analysis.plotting.groups import Band, Group, band
from pipo.analysis.plotting.style import DARK, corner_note, iteration_axis, look, say_missing, time_unit
from pipo.analysis.run_metrics import Run
from pipo.evaluation.statistics import Floats
from pipo.runs.run_log import ACCURACY

SECONDS = "time/iteration"
# A note is one line: so many letters, and so much of a panel's height.
_NOTE_LENGTH, _NOTE_HEIGHT = 60, 0.12


def last_iteration(groups: Sequence[Group]) -> int:
    """Of the longest run."""
    return max(max(run.rows) for group in groups for run in group.runs)


def group_legend(groups: Sequence[Group]) -> list[Line2D]:
    """A handle per group, with all that tells it apart: colour, dashes and marker."""
    return [
        Line2D([], [], **look(n), ms=4.5, lw=1.4, mec="white", mew=0.4, label=group.label)
        for n, group in enumerate(groups)
    ]


def draw_metric(axis: Axes, groups: Sequence[Group], metric: str, *, from_zero: bool) -> None:
    """A metric of every iteration, averaged over a few; single runs show their raw values faintly, too.

    Args:
        axis: with its title and label.
        groups: what to draw.
        metric: its name in the log.
        from_zero: whether the scale begins there.
    """
    # About a twentieth of the longest run, the same for all.
    window = max(len(run.rows) for group in groups for run in group.runs) // 40 * 2 + 1
    missing = []
    for n, group in enumerate(groups):
        smoothed = band(group, metric, window)
        if not len(smoothed.at):
            missing.append(group.name)
            continue
        style = look(n)
        if len(group.runs) == 1 and window > 1:
            axis.plot(*group.runs[0].series(metric), color=style["color"], alpha=0.25, lw=0.6)
        # Few markers, and not all at the same iterations: lines that meet stay apart in print.
        every = max(len(smoothed.at) // 6, 1)
        style["markevery"] = (n * every // len(groups), every)
        _draw_band(axis, smoothed, smoothed.at, 1.0, style | ({"marker": ""} if len(groups) == 1 else {}))
    if not axis.lines:
        say_missing(axis, f"no {metric} was logged")
        return
    iteration_axis(axis, last_iteration(groups))
    if from_zero:
        axis.set_ylim(bottom=0)
    _notes(axis, [f"mean of {window} iterations"] if window > 1 else [], missing, len(groups), metric)


def draw_accuracy(axis: Axes, groups: Sequence[Group]) -> None:
    """Held-out pass@1 over iterations."""
    missing = []
    for n, group in enumerate(groups):
        points = band(group, ACCURACY)
        if len(points.at):
            _draw_band(axis, points, points.at, 100.0, look(n))
        else:
            missing.append(group.name)
    axis.set(title="Held-out accuracy", ylabel="pass@1, %")
    if not axis.lines:
        say_missing(axis, "no held-out accuracy was logged")
        return
    iteration_axis(axis, last_iteration(groups))
    _notes(axis, [_what_bands_are(groups)], missing, len(groups), "held-out accuracy")


def draw_accuracy_over_time(axis: Axes, groups: Sequence[Group]) -> None:
    """Held-out pass@1 over the time that training took until then, without held-out scoring."""
    axis.set(title="Accuracy by wall clock", ylabel="pass@1, %")
    missing, spread = [], False
    timed: list[tuple[int, Band, Floats]] = []
    for n, group in enumerate(groups):
        points = band(group, ACCURACY)
        if len(points.at) and all(np.isfinite(run.values(SECONDS)).all() for run in group.runs):
            timed.append((n, points, np.array([_seconds_at(run, points.at) for run in group.runs])))
        else:
            missing.append(group.name)
    if not timed:
        say_missing(axis, "no held-out accuracy with step times was logged")
        return
    divisor, unit = time_unit([float(seconds.max()) for _, _, seconds in timed])
    for n, points, seconds in timed:
        _draw_band(axis, points, seconds.mean(axis=0) / divisor, 100.0, look(n))
        if len(seconds) > 1:
            # How far apart the runs' own clocks are, once, where it is widest.
            ends = np.array([seconds[:, -1].min(), seconds[:, -1].max()]) / divisor
            axis.plot(ends, [100 * points.centre[-1]] * 2, "-|", color=look(n)["color"], lw=0.8, ms=6)
            spread = True
    axis.set(xlabel=f"{unit} of training, without held-out scoring")
    axis.set_xlim(left=0)
    _notes(
        axis, ["whisker: range over runs"] if spread else [], missing, len(groups), "accuracy with step times"
    )


def _seconds_at(run: Run, iterations: Floats) -> Floats:
    """Seconds of training when each of these iterations ended."""
    elapsed = dict(zip(run.rows, np.cumsum(run.values(SECONDS)), strict=True))
    return np.array([elapsed[int(i)] for i in iterations])


def _draw_band(axis: Axes, values: Band, x: Floats, scale: float, style: dict[str, Any]) -> None:
    """Centre and interval."""
    if np.isfinite(values.low).any():
        axis.fill_between(
            x, scale * values.low, scale * values.high, color=style["color"], alpha=0.17, lw=0, zorder=1.5
        )
    axis.plot(x, scale * values.centre, **style, ms=4, lw=1.3, mec="white", mew=0.4)


def _what_bands_are(groups: Sequence[Group]) -> str:
    several = [len(group.runs) > 1 for group in groups]
    if all(several):
        return "band: 95 % t-interval over runs"
    return "bands: over runs, or problems" if any(several) else "band: 95 % over problems"


def _notes(axis: Axes, notes: list[str], missing: Sequence[str], of: int, what: str) -> None:
    """Remarks in the corner; which of the groups could not be drawn stands in the panel, above the data."""
    corner_note(axis, "; ".join(notes))
    if missing:
        text = f"no {what} was logged by {'; '.join(missing)}"
        if len(text) > _NOTE_LENGTH:
            text = f"no {what} was logged by {len(missing)} of {of} groups"
        low, high = axis.get_ylim()
        axis.set_ylim(top=low + (high - low) / (1 - _NOTE_HEIGHT))
        corner = {"transform": axis.transAxes, "ha": "right", "va": "top"}
        axis.text(0.99, 0.99, text, fontsize=6.5, color=DARK, **corner)
