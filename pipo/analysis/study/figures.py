"""Figures of a study's outcome: curves with bands over seeds, a sweep, or pairs of arms."""

from __future__ import annotations

from textwrap import fill

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipo.analysis.plotting.groups import Group
from pipo.analysis.plotting.lines import draw_accuracy
from pipo.analysis.plotting.style import BLUE, DARK, GREY, STYLE, VERMILION, corner_note, look, new_figure
from pipo.analysis.study.plan import StudyPlan
from pipo.analysis.study.table import ArmResult, complete_pairs, paired_difference
from pipo.evaluation.over_seeds import mean

Arms = dict[str, ArmResult]


def draw_curves(plan: StudyPlan, arms: Arms) -> Figure:
    """Held-out accuracy of every arm in training, and every seed's result."""
    figure = new_figure(max(3.0, 0.9 + 0.34 * len(arms)))
    with mpl.rc_context(STYLE):
        left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
        groups = [Group(name=plan.arms[name].label, runs=arm.runs) for name, arm in arms.items()]
        draw_accuracy(left, groups)
        handles = [
            Line2D([], [], **look(n), ms=4, mec="white", mew=0.4, label=group.name)
            for n, group in enumerate(groups)
        ]
        left.legend(handles=handles, loc="lower right")
        _endpoints(plan, arms, right)
    return figure


def draw_sweep(plan: StudyPlan, arms: Arms) -> Figure:
    """Accuracy after training over the swept value; arms without one are horizontal bands."""
    figure = new_figure(max(3.0, 0.9 + 0.34 * len(arms)))
    with mpl.rc_context(STYLE):
        left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
        swept = [(plan.arms[name].x, mean(arm.after)) for name, arm in arms.items()]
        at = sorted((x, m.value, m.half_width) for x, m in swept if x is not None)
        centre, width = 100 * np.array([m for _, m, _ in at]), 100 * np.array([w for _, _, w in at])
        # Equal steps: the values of these sweeps double, or begin with zero.
        places = np.arange(len(at))
        left.errorbar(places, centre, yerr=width, fmt="o-", color=BLUE, capsize=3, ms=4, label="swept arms")
        for name, arm in arms.items():
            if plan.arms[name].x is None:
                m = mean(arm.after)
                low, high = 100 * (m.value - m.half_width), 100 * (m.value + m.half_width)
                left.axhspan(low, high, color=GREY, alpha=0.25, lw=0)
                left.axhline(100 * m.value, color=DARK, lw=1, ls="--", label=plan.arms[name].label)
        left.set(title="After training", xlabel=plan.axis, ylabel="pass@1, %")
        left.set_xticks(places, [f"{x:g}" for x, _, _ in at])
        left.legend(loc="best")
        corner_note(left, "bars, band: 95 % over seeds")
        _endpoints(plan, arms, right)
    return figure


def draw_pairs(plan: StudyPlan, arms: Arms) -> Figure:
    """Each arm beside the one it is compared with, and the paired difference."""
    pairs = [(other, name) for name, other in complete_pairs(plan, arms)]
    figure = new_figure(1.1 + 0.33 * len(pairs))
    with mpl.rc_context(STYLE):
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.4, 1))
        for place, (other, name) in enumerate(pairs):
            for arm, shift, colour, marker in ((other, -0.14, BLUE, "o"), (name, 0.14, VERMILION, "s")):
                m = mean(arms[arm].after)
                value, width = 100 * m.value, 100 * m.half_width
                left.errorbar(value, place + shift, xerr=width, fmt=marker, color=colour, ms=4, capsize=2)
            m = mean(paired_difference(arms[name], arms[other]))
            right.errorbar(
                100 * m.value, place, xerr=100 * m.half_width, fmt="D", color="black", ms=3.5, capsize=2
            )
        right.axvline(0, color=DARK, lw=0.8)
        left.set(title="After training", xlabel="pass@1, %")
        left.set_yticks(range(len(pairs)), [fill(plan.arms[name].label, 24) for _, name in pairs])
        left.invert_yaxis()
        right.set(title="Difference, pair by pair", xlabel="points of pass@1")
        corner_note(left, "bars: 95 % over seeds")
        handles = [
            Line2D([], [], ls="", marker="o", color=BLUE, ms=4, label="its baseline"),
            Line2D([], [], ls="", marker="s", color=VERMILION, ms=4, label="the arm"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _endpoints(plan: StudyPlan, arms: Arms, axis: Axes) -> None:
    """Every seed as a dot, the mean with its interval as a bar."""
    for place, arm in enumerate(arms.values()):
        # In a sweep the arms are one line, so colour means nothing.
        colour = BLUE if plan.figure == "sweep" else look(place)["color"]
        marker = "o" if plan.figure == "sweep" else look(place)["marker"]
        m = mean(arm.after)
        values = 100 * arm.after
        axis.plot(values, np.full(len(values), place - 0.12), marker, color=colour, alpha=0.55, ms=3, mew=0)
        axis.errorbar(
            100 * m.value, place + 0.2, xerr=100 * m.half_width, fmt="|", color=colour, capsize=2.5, ms=7
        )
    axis.set(title="Each seed, and the mean", xlabel="pass@1 after training, %")
    axis.set_yticks(range(len(arms)), [fill(plan.arms[name].label, 20) for name in arms])
    axis.set_ylim(len(arms) - 0.5, -0.5)
