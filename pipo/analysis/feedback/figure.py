"""Figure of the feedback: each run's curve with its drops, and the share of right signs by batch size."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipo.analysis.feedback.model import GOAL, share_right
from pipo.analysis.feedback.result import Result
from pipo.analysis.plotting.style import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    STYLE,
    VERMILION,
    corner_note,
    iteration_axis,
    new_figure,
)
from pipo.evaluation.statistics import Estimate

# Inches of a run, and of the legend.
_ROW, _LEGEND = 2.1, 0.35
# Powers of two of the factor on the number of prompts, at least; the goal lies inside.
_LEAST, _MOST, _FARTHEST = -3.0, 7.0, 14.0
# The two questions: colour, dashes, marker.
_LOOKS = (("last iteration's change", BLUE, "-", "o"), ("change against the window", VERMILION, "--", "s"))


def draw(results: Sequence[Result]) -> Figure:
    """A row of two panels for each run."""
    figure = new_figure(_ROW * len(results) + _LEGEND)
    with mpl.rc_context(STYLE):
        axes = figure.subplots(len(results), 2, squeeze=False, width_ratios=(1.25, 1))
        for (left, right), result in zip(axes, results, strict=True):
            _draw_curve(left, result)
            _draw_share(right, result)
        figure.legend(handles=_legend(results), loc="outside lower center", ncols=4)
    return figure


def _draw_curve(axis: Axes, result: Result) -> None:
    curve, found = result.curve, result.findings
    drop = np.nan_to_num(found.progress) < 0
    low, high = found.level - found.noise, found.level + found.noise
    axis.fill_between(curve.steps, low, high, color=GREY, alpha=0.25, lw=0)
    axis.plot(curve.steps, found.level, color=DARK, lw=1.2)
    size = 3.2 if len(curve.steps) <= 200 else 1.8
    axis.plot(curve.steps[~drop], curve.means[~drop], ".", color=BLUE, ms=1.4 * size, mew=0)
    axis.plot(curve.steps[drop], curve.means[drop], "v", color=VERMILION, ms=size, mew=0)
    first, last = int(curve.steps[0]), int(curve.steps[-1])
    iteration_axis(axis, last)
    axis.set_xlim(left=first - 0.5 - 0.015 * (last - first))
    axis.set(title=_short(curve.name), ylabel="mean reward of a batch")
    corner_note(axis, f"ξ < 0 in {found.negative:.0%} of {found.defined}")


def _draw_share(axis: Axes, result: Result) -> None:
    found = result.findings
    finite = [q.factor.value for q, _ in result.questions.values() if np.isfinite(q.factor.value)]
    most = min(max([_MOST, *(np.log2(f) + 1 for f in finite)]), _FARTHEST)
    least = min([_LEAST, *(np.log2(f) - 1 for f in finite)])
    powers = np.linspace(least, most, 200)
    scale = result.curve.prompts or 1.0
    changes = found.level[result.window :] - found.level[result.window - 1 : -1]
    signs = (np.sign(changes), np.sign(found.signal))
    axis.axhline(0.5, color=DARK, lw=0.8, ls=":")
    axis.axhline(GOAL, color=GREEN, lw=0.8, ls="-.")
    answers = zip(_LOOKS, signs, result.questions.values(), strict=True)
    for n, ((_, colour, dashes, marker), each, (answer, measured)) in enumerate(answers):
        share = [float(share_right(each, found.signal, float(2.0**power))) for power in powers]
        axis.plot(scale * 2.0**powers, share, color=colour, ls=dashes, lw=1.4)
        # Beside each other, because they often coincide.
        aside = 2.0 ** ((2 * n - 1) * (most - least) / 80)
        _draw_estimate(axis, scale * aside, answer.probability, marker, colour, colour)
        if measured is not None:
            _draw_estimate(
                axis, scale * aside / 2 ** ((most - least) / 20), measured.sign, marker, colour, "white"
            )
    axis.set_xscale("log", base=2)
    axis.set(title="Share of right signs", ylim=(0.35, 1.02), xlim=(scale * 2.0**least, scale * 2.0**most))
    axis.set_xlabel("prompts per iteration" if result.curve.prompts else "times as many prompts")
    axis.xaxis.set_major_locator(LogLocator(base=2, numticks=6))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _draw_estimate(axis: Axes, at: float, value: Estimate, marker: str, colour: str, inside: str) -> None:
    error = np.clip([[value.value - value.low], [value.high - value.value]], 0, None)
    axis.errorbar(at, value.value, yerr=error, fmt=marker, ms=4, color=colour, mfc=inside, capsize=2)


def _legend(results: Sequence[Result]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=BLUE, marker=".", ls="", ms=5, label="batch mean"),
        Line2D([], [], color=VERMILION, marker="v", ls="", ms=4, label="ξ < 0"),
        Line2D([], [], color=DARK, lw=1.2, label="estimate ± noise of a batch"),
        *(Line2D([], [], color=c, ls=d, marker=m, ms=4, label=name) for name, c, d, m in _LOOKS),
        Line2D([], [], color=GREEN, ls="-.", lw=0.8, label=f"{GOAL:.0%}"),
        Line2D([], [], color=DARK, ls=":", lw=0.8, label="coin"),
    ]
    if any(result.realised for result in results):
        handles.append(Line2D([], [], color=DARK, marker="o", mfc="white", ls="", ms=4, label="realised"))
    return handles


def _short(name: str) -> str:
    return name if len(name) <= 30 else name[:29] + "…"
