"""``curves.png``, all panels of one run or several: accuracy, reward, gradients, feedback, seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from pipo.analysis.plotting.bars import (
    COEFFICIENT,
    PROGRESS,
    draw_phases_by_group,
    draw_phases_by_iteration,
    draw_signed,
)
from pipo.analysis.plotting.groups import Group
from pipo.analysis.plotting.lines import (
    draw_accuracy,
    draw_accuracy_over_time,
    draw_metric,
    group_legend,
    last_iteration,
)
from pipo.analysis.plotting.style import DARK, STYLE, new_figure, save
from pipo.analysis.run_metrics import read_run
from pipo.runs.run_log import METRICS_FILE, has_rows
from pipo.runs.run_summary import CURVES_FILE

IMPROVEMENT = "pipo/improvement"

# Inches.
_ROW, _LEGEND_LINE = 1.65, 0.2
# Letters of the usual size that fit beside the handle of a legend as wide as the page.
_LETTERS = 95


def plot_curves(metrics_path: Path, out: Path) -> None:
    """Draw one run. Panels of metrics that the run did not log say so."""
    run = read_run(metrics_path.resolve().parent.name, metrics_path)
    plot_groups([Group(name=run.name, runs=(run,))], out)


def write_curves(folder: Path) -> None:
    """Draw the run in a folder, beside its metrics; nothing is left there when none were logged."""
    out = folder / CURVES_FILE
    out.unlink(missing_ok=True)
    if has_rows(folder / METRICS_FILE):
        plot_curves(folder / METRICS_FILE, out)


def plot_groups(groups: Sequence[Group], out: Path) -> None:
    """Draw groups over each other into a PNG."""
    save(draw(groups), out)


def draw(groups: Sequence[Group]) -> Figure:
    """The figure with its panels, not yet written."""
    looped = [group for group in groups if group.has(PROGRESS)]
    alone = len(groups) == 1 and len(groups[0].runs) == 1
    measured = any(group.has(IMPROVEMENT) for group in groups)
    # Without any feedback a word says so, unless the loop is of another kind.
    count = len(looped) or (0 if measured else 1)
    strips = [1.25] if count == 1 else [0.75] * count
    time = 1.5 if alone else 0.65 + 0.32 * len(groups)
    heights = [_ROW, _ROW, _ROW, *strips, *([_ROW] if measured else []), time]
    columns = _legend_columns(max(len(group.label) for group in groups))
    lines = 0 if alone else -(-len(groups) // columns)
    figure = new_figure(sum(heights) + _LEGEND_LINE * (lines + (not alone)))
    with mpl.rc_context(STYLE):
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
        draw_accuracy(figure.add_subplot(grid[0, 0]), groups)
        draw_accuracy_over_time(figure.add_subplot(grid[0, 1]), groups)
        panels = [
            (grid[1, 0], "train/reward", "Training reward", "mean reward, 0 to 1"),
            (grid[1, 1], "train/response_length", "Response length", "tokens"),
            (grid[2, 0], "policy/grad_norm", "Gradient, base update", "norm before clipping"),
            (grid[2, 1], "pipo/grad_norm", "Gradient, retrospective", "norm before clipping"),
        ]
        for place, metric, title, unit in panels:
            axis = figure.add_subplot(place)
            axis.set(title=title, ylabel=unit)
            draw_metric(axis, groups, metric, from_zero=metric != "train/reward")
        for column, metric in enumerate((PROGRESS, COEFFICIENT) if count else ()):
            axes = [figure.add_subplot(grid[3 + row, column]) for row in range(count)]
            draw_signed(axes, looped, metric, last_iteration(groups))
        if measured:
            change, rate = (figure.add_subplot(grid[-2, column]) for column in range(2))
            change.set(title="What the last iteration did", ylabel="change of the mean reward")
            draw_metric(change, groups, IMPROVEMENT, from_zero=False)
            change.axhline(0, color=DARK, lw=0.7)
            rate.set(title="Learning rate", yscale="log")
            draw_metric(rate, groups, "policy/lr", from_zero=False)
        time_axis = figure.add_subplot(grid[-1, :])
        if alone:
            draw_phases_by_iteration(time_axis, groups[0].runs[0])
        else:
            draw_phases_by_group(time_axis, groups)
            # One column of very long labels gets smaller letters, so that it is not wider than the page.
            longest = max(len(group.label) for group in groups)
            size = STYLE["legend.fontsize"] * min(1.0, _LETTERS / longest)
            where = {"loc": "outside upper center", "ncols": columns, "fontsize": size}
            figure.legend(handles=group_legend(groups), **where)
    return figure


def _legend_columns(longest: int) -> int:
    """As many as fit beside each other on a page, for labels of up to so many letters."""
    return 3 if longest <= 30 else 2 if longest <= 48 else 1
