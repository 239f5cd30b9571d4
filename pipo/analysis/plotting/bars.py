"""Panels of bars: signed feedback and coefficient, and seconds per phase of an iteration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from pipo.analysis.plotting.groups import Group
from pipo.analysis.plotting.style import (
    BLACK,
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    corner_note,
    iteration_axis,
    say_missing,
)
from pipo.analysis.run_metrics import Run
from pipo.evaluation.over_seeds import mean
from pipo.evaluation.statistics import Floats

PROGRESS, COEFFICIENT = "pipo/progress", "pipo/coefficient"
PHASES = {
    "generate": (BLUE, ""),
    "environment": (BLACK, "////"),
    "score": (YELLOW, "xxxx"),
    "annotate": (SKY, "...."),
    "look_back": (ORANGE, "||||"),
    "retrospective": (VERMILION, "////"),
    "critic": (PURPLE, "++++"),
    "update": (GREEN, "\\\\\\\\"),
    "other": (GREY, ""),
}
"""Phase of an iteration -> colour and hatch."""
BESIDE = {"probe": (BLACK, "oooo")}
"""What is measured between iterations and is no part of ``time/iteration``, the same way."""
_LOOKS = PHASES | BESIDE


def signed_mean(group: Group, metric: str, last: int) -> tuple[Floats, Floats]:
    """For each iteration up to ``last``, the means over runs of the positive and of the negative part.

    The mean itself would hide what it is there to show: over runs, rises and drops cancel. A run that did
    not log the metric in an iteration counts as zero there.
    """
    up, down = np.zeros(last + 1), np.zeros(last + 1)
    for run in group.runs:
        iterations, values = run.series(metric)
        places = iterations.astype(int)
        up[places] += np.clip(values, 0, None)
        down[places] += np.clip(values, None, 0)
    return up / len(group.runs), down / len(group.runs)


def draw_signed(axes: Sequence[Axes], groups: Sequence[Group], metric: str, last: int) -> None:
    """Bars up and down from zero, a strip for each group that logged the metric.

    Args:
        axes: as many as there are groups with the metric; one when there is none.
        groups: those with the metric.
        metric: progress or coefficient.
        last: iteration at the right end.
    """
    axes[0].set_title("Feedback ξ, in std of the window" if metric == PROGRESS else "Coefficient φ(ξ)")
    if not groups:
        say_missing(axes[0], f"no {metric} was logged;\na run without PIPO logs none")
        return
    strips = [signed_mean(group, metric, last) for group in groups]
    lowest = min(float(down.min()) for _, down in strips)
    highest = max(float(up.max()) for up, _ in strips)
    several = any(len(group.runs) > 1 for group in groups)
    edges = np.arange(last + 2) - 0.5
    for axis, group, (up, down) in zip(axes, groups, strips, strict=True):
        # One shape each, so that no seams shimmer; dark above, light below: plain in grey, too.
        axis.stairs(up, edges, fill=True, color=BLUE, lw=0)
        axis.stairs(down, edges, fill=True, color=ORANGE, lw=0)
        axis.axhline(0, color=DARK, lw=0.7)
        iteration_axis(axis, last)
        # The same scale for all, with room for the name.
        named = len(groups) > 1 or several
        room = 0.45 if named else 0.1
        axis.set_ylim(lowest - 0.05 * (highest - lowest), highest + room * max(highest - lowest, 0.1))
        axis.set_ylabel("ξ" if metric == PROGRESS else "φ(ξ)")
        if named:
            place = {"transform": axis.transAxes, "va": "top", "fontsize": 7}
            # A long name is cut at the panel's edge; it must not push the panel aside.
            axis.text(0.01, 0.96, group.label, **place, clip_on=True).set_in_layout(False)
        if axis is not axes[-1]:
            axis.set_xlabel("")
            axis.tick_params(labelbottom=False)
    if several:
        axes[-1].set_xlabel("iteration (means of rises and of drops over runs)")
    elif metric == COEFFICIENT and len(groups) == 1:
        (run,) = groups[0].runs
        made = int(np.nansum(run.values("pipo/applied")))
        corner_note(axes[0], f"applied in {made} of {len(run.rows)} iterations")


def phase_seconds(run: Run) -> dict[str, Floats]:
    """Seconds of each logged phase per iteration; ``other`` is what remains, the probe comes on top."""
    logged, whole, beside = (_seconds(run, names) for names in (PHASES, ["iteration"], BESIDE))
    if whole:
        logged["other"] = np.clip(whole["iteration"] - sum(logged.values()), 0, None)
    return logged | beside


def _seconds(run: Run, names: Iterable[str]) -> dict[str, Floats]:
    timed = [name for name in names if len(run.series(f"time/{name}")[1])]
    return {name: run.values(f"time/{name}", missing=0.0) for name in timed}


def draw_phases_by_iteration(axis: Axes, run: Run) -> None:
    """One stacked column per iteration."""
    axis.set(title="Time per iteration", ylabel="seconds")
    phases = phase_seconds(run)
    if not phases:
        say_missing(axis, "no step times (time/...) were logged")
        return
    iteration_axis(axis, max(run.rows))
    # Steps, as columns would have, but as one shape per phase: no seams between neighbours.
    edges = np.array([*run.rows, max(run.rows) + 1]) - 0.5
    bottom = np.zeros(len(run.rows))
    for name, seconds in phases.items():
        colour, hatch = _LOOKS[name]
        axis.stairs(
            bottom + seconds,
            edges,
            baseline=bottom,
            fill=True,
            fc=colour,
            ec="white",
            hatch=hatch,
            lw=0,
            label=name,
        )
        bottom = bottom + seconds
    axis.set_ylim(0, bottom.max() * 1.35)
    axis.legend(loc="upper center", ncols=len(phases), columnspacing=1.0, handlelength=1.4)


def draw_phases_by_group(axis: Axes, groups: Sequence[Group]) -> None:
    """One stacked bar per group, of the means over iterations and runs, with the interval of the total."""
    axis.set(title="Mean time per iteration", xlabel="seconds")
    ends = []
    for place, group in enumerate(groups):
        means = [{name: s.mean() for name, s in phase_seconds(run).items()} for run in group.runs]
        ends.append(stacked_bar(axis, place, means))
    finish_stacks(axis, [group.label for group in groups], max(ends))


def stacked_bar(axis: Axes, place: float, runs: Sequence[dict[str, float]]) -> float:
    """A bar of the phases' means over runs, with the total and its interval beside it; where it ends."""
    left = 0.0
    for name, (colour, hatch) in _LOOKS.items():
        width = float(np.mean([run.get(name, 0.0) for run in runs]))
        if width:
            style = {"color": colour, "hatch": hatch, "ec": "white", "lw": 0.4, "label": name}
            axis.barh(place, width, left=left, height=0.48, **style)
        left += width
    totals = np.array([sum(run.values()) for run in runs])
    digits = 3 if left < 1 else 2
    end, text = left, f"{left:.{digits}f} s" if left else "no step times were logged"
    if len(runs) > 1 and left:
        m = mean(totals)
        axis.errorbar(left, place, xerr=m.half_width, color="black", capsize=2.5, lw=0.9)
        end, text = left + m.half_width, f"{left:.{digits}f} ± {m.half_width:.{digits}f} s"
    axis.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
    return end


def finish_stacks(axis: Axes, labels: Sequence[str], end: float) -> None:
    """Limits, a label above each bar, where it costs no width, and a legend of the drawn phases below."""
    for place, label in enumerate(labels):
        beside = {"textcoords": "offset points", "va": "bottom", "fontsize": 7}
        # A long label must not push the panel aside.
        axis.annotate(label, (0, place - 0.26), (0, 1), **beside).set_in_layout(False)
    axis.set(yticks=[], ylim=(len(labels) - 0.6, -0.85), xlim=(0, max(end, 1e-3) * 1.2))
    axis.grid(False, axis="y")
    drawn = axis.get_legend_handles_labels()[1]
    handles = [
        Patch(fc=colour, hatch=hatch, ec="white", lw=0, label=name)
        for name, (colour, hatch) in _LOOKS.items()
        if name in drawn
    ]
    if handles:
        look = {"ncols": len(handles), "columnspacing": 1.2, "handlelength": 1.8}
        axis.figure.legend(handles=handles, loc="outside lower center", **look)
