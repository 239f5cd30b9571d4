"""Draw the curves of one or more runs: ``python -m pipo.plot RUN_FOLDER...``.

One run folder gives ``curves.png`` inside it. Several are drawn over each other, labelled by folder name, and
need ``--out``. Colours are Okabe and Ito's, which stay apart for colour-blind readers; sign and phase are
also told by hatching or position, so the figure survives a black-and-white printer.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pipo.run_log import METRICS_FILE, Floats, Run, read_run, smooth

CURVES_FILE = "curves.png"

DASHES = (0, (5, 1.2))
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#8C8C8C"
RUN_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
PHASE_COLOURS = {
    "generate": BLUE,
    "score": YELLOW,
    "annotate": SKY,
    "retrospective": VERMILION,
    "update": GREEN,
    "other": GREY,
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def plot_curves(metrics_path: Path, out: Path) -> None:
    """Draw one run. Panels of metrics that the run did not log say so."""
    plot_runs([read_run(metrics_path.resolve().parent.name, metrics_path)], out)


def plot_runs(runs: Sequence[Run], out: Path) -> None:
    """Draw runs over each other into a PNG (200 dots per inch)."""
    with mpl.rc_context(STYLE):
        figure = draw(runs)
        figure.savefig(out, dpi=200)


def draw(runs: Sequence[Run]) -> Figure:
    """The figure with its panels, not yet written."""
    figure = Figure(figsize=(11.5, 7.8), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.09))
    # The canvas writes files: no window, no global pyplot state.
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(4, 2)
    _draw_accuracy(figure.add_subplot(grid[:2, 0]), runs)
    progress = figure.add_subplot(grid[0, 1])
    progress.set(title="Policy-improvement feedback ξ", ylabel="ξ (std of history)")
    _draw_signed(progress, runs, "pipo/progress")
    progress.set_xlabel("")  # the panel below has the same axis
    coefficient = figure.add_subplot(grid[1, 1])
    coefficient.set(title="Coefficient φ(ξ)", ylabel="φ(ξ), no unit")
    _draw_signed(coefficient, runs, "pipo/coefficient")
    _draw_length(figure.add_subplot(grid[2:, 0]), runs)
    time = figure.add_subplot(grid[2:, 1])
    if len(runs) == 1:
        _draw_phases_by_iteration(time, runs[0])
    else:
        _draw_phases_by_run(time, runs)
        handles = [Line2D([], [], color=colour, lw=3, label=run.name) for run, colour in _coloured(runs)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(runs), 4), fontsize=9)
    return figure


def _coloured(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    return list(zip(runs, itertools.cycle(RUN_COLOURS), strict=False))


def _iteration_axis(axis: Axes, runs: Sequence[Run]) -> None:
    """The same range in every panel, so that they can be read against each other."""
    last = max(max(run.rows) for run in runs)
    axis.set(xlabel="iteration", xlim=(-0.5 - 0.015 * last, last + 0.5 + 0.015 * last))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))


def _corner_note(axis: Axes, text: str) -> None:
    """A remark at the height of the title, on the right."""
    axis.set_title(text, loc="right", fontsize=8, fontweight="normal", color="#555555")


def _say_missing(axis: Axes, text: str) -> None:
    """Words instead of an empty frame."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="#555555")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)


def _draw_smoothed(
    axis: Axes, runs: Sequence[Run], metric: str, colours: Sequence[str], label: str, **line: Any
) -> list[str]:
    """The raw curve of each run faint and its moving average over it.

    Returns:
        Names of the runs that did not log the metric.
    """
    # About a twentieth of the longest run, the same for all.
    window = max(len(run.rows) for run in runs) // 40 * 2 + 1
    label = f"{label}, averaged over {window} iterations" if window > 1 else label
    missing = []
    for run, colour in zip(runs, colours, strict=False):
        iterations, values = run.series(metric)
        if len(values) == 0:
            missing.append(run.name)
            continue
        if window > 1:
            axis.plot(iterations, values, color=colour, alpha=0.25, lw=0.7)
        axis.plot(iterations, smooth(values, window), color=colour, label=label, **line)
    return missing


def _draw_accuracy(axis: Axes, runs: Sequence[Run]) -> None:
    """Held-out pass@1 with its interval, and the training reward."""
    axis.set(title="Held-out accuracy and training reward", ylabel="pass@1, mean reward (0 to 1)")
    colours = [ORANGE] if len(runs) == 1 else [colour for _, colour in _coloured(runs)]
    without = {
        "training reward": _draw_smoothed(
            axis, runs, "train/reward", colours, "training reward", lw=1.2, ls=DASHES
        ),
        "held-out accuracy": [run.name for run in runs if len(run.series("eval/pass@1")[1]) == 0],
    }
    for run, colour in _coloured(runs):
        at_low, low = run.series("eval/pass@1_low")
        at_high, high = run.series("eval/pass@1_high")
        if np.array_equal(at_low, at_high):
            axis.fill_between(at_low, low, high, color=colour, alpha=0.16, lw=0)
        iterations, values = run.series("eval/pass@1")
        if len(values):
            label = "held-out pass@1 with its interval"
            axis.plot(iterations, values, "o-", color=colour, ms=4.5, lw=1.8, mec="white", label=label)
    notes = [
        f"no {what} was logged" + (f" by {', '.join(names)}" if len(runs) > 1 else "")
        for what, names in without.items()
        if names
    ]
    if not axis.lines:
        _say_missing(axis, "\n".join(notes))
        return
    _iteration_axis(axis, runs)
    _legend_of_kinds(axis, grey=len(runs) > 1, notes=notes)


def _legend_of_kinds(axis: Axes, grey: bool, notes: Sequence[str]) -> None:
    """Each kind of line once; in grey where colour means the run. Notes stand below, without a line."""
    kinds = {str(line.get_label()): line for line in axis.lines if not str(line.get_label()).startswith("_")}
    handles = [
        Line2D(
            [],
            [],
            color=GREY if grey else line.get_color(),
            lw=line.get_linewidth(),
            ls=line.get_linestyle(),
            marker=line.get_marker(),
            ms=4.5,
            label=label,
        )
        for label, line in kinds.items()
    ]
    handles += [Line2D([], [], ls="none", label=note) for note in notes]
    axis.legend(handles=handles, loc="best")


def _draw_signed(axis: Axes, runs: Sequence[Run], metric: str) -> None:
    """Bars from zero for one run with this metric, lines for several."""
    found = [(run, colour) for run, colour in _coloured(runs) if len(run.series(metric)[1])]
    if not found:
        _say_missing(axis, f"no {metric} was logged; a run without PIPO logs none")
        return
    _iteration_axis(axis, runs)
    axis.axhline(0, color="#555555", lw=0.8)
    if len(found) > 1:
        for run, colour in found:
            axis.plot(*run.series(metric), color=colour, lw=1.0, alpha=0.85)
        return
    run = found[0][0]
    note = run.name if len(runs) > 1 else ""
    _, applied = run.series("pipo/applied")
    if metric == "pipo/coefficient" and len(applied):
        note = f"retrospective update in {int(applied.sum())} of {len(run.rows)} iterations"
    _corner_note(axis, note)
    iterations, values = run.series(metric)
    # Dark above and light below the axis: the sign is plain in grey, too.
    for sign, colour, label in ((1, BLUE, "improved"), (-1, ORANGE, "got worse")):
        axis.bar(iterations, sign * np.clip(sign * values, 0, None), width=0.85, color=colour, label=label)
    if metric == "pipo/progress":
        axis.set_ylim(min(values.min() * 1.1, -0.1), max(values.max(), 0.1) * 1.4)
        axis.legend(loc="upper right", ncols=2, borderaxespad=0.1)


def _draw_length(axis: Axes, runs: Sequence[Run]) -> None:
    axis.set(title="Response length", ylabel="tokens per response")
    colours = [colour for _, colour in _coloured(runs)]
    missing = _draw_smoothed(axis, runs, "train/response_length", colours, "response length", lw=1.6)
    if not axis.lines:
        _say_missing(axis, "no response length was logged")
        return
    _iteration_axis(axis, runs)
    axis.set_ylim(bottom=0)
    notes = [f"no response length was logged by {', '.join(missing)}"] if missing else []
    _legend_of_kinds(axis, grey=len(runs) > 1, notes=notes)


def phase_seconds(run: Run) -> dict[str, Floats]:
    """Seconds of each logged phase per iteration; ``other`` is what remains of the iteration."""
    logged = {
        name: run.column(f"time/{name}") for name in PHASE_COLOURS if len(run.series(f"time/{name}")[1])
    }
    if len(run.series("time/iteration")[1]):
        known = sum(logged.values(), start=np.zeros(len(run.rows)))
        logged["other"] = np.clip(run.column("time/iteration") - known, 0, None)
    return logged


def _draw_phases_by_iteration(axis: Axes, run: Run) -> None:
    """One stacked column per iteration."""
    axis.set(title="Time per iteration", ylabel="seconds")
    phases = phase_seconds(run)
    if not phases:
        _say_missing(axis, "no step times (time/...) were logged")
        return
    _iteration_axis(axis, [run])
    colours = [PHASE_COLOURS[name] for name in phases]
    # Steps, as columns would have, but as one shape per phase: no seams between neighbours.
    edges = np.array([*run.rows, max(run.rows) + 1]) - 0.5
    bottom = np.zeros(len(run.rows))
    for (name, seconds), colour in zip(phases.items(), colours, strict=True):
        axis.stairs(bottom + seconds, edges, baseline=bottom, fill=True, color=colour, label=name, lw=0)
        bottom = bottom + seconds
    axis.set_ylim(0, bottom.max() * 1.3)
    axis.legend(loc="upper center", ncols=len(phases), columnspacing=1.0, handlelength=1.0)


def _draw_phases_by_run(axis: Axes, runs: Sequence[Run]) -> None:
    """One stacked bar per run, of the means over its iterations."""
    axis.set(title="Mean time per iteration", xlabel="seconds")
    totals = []
    for place, run in enumerate(runs):
        left = 0.0
        for name, seconds in phase_seconds(run).items():
            axis.barh(place, seconds.mean(), left=left, height=0.45, color=PHASE_COLOURS[name])
            left += float(seconds.mean())
        label = f"{run.name}: {left:.1f} s" if left else f"{run.name}: no step times were logged"
        axis.text(0, place - 0.28, label, va="bottom", fontsize=8)
        totals.append(left)
    axis.set(yticks=[], ylim=(len(runs) - 0.5, -1.1), xlim=(0, max(*totals, 1e-3) * 1.05))
    axis.grid(False, axis="y")
    handles = [Patch(color=colour, label=name) for name, colour in PHASE_COLOURS.items()]
    axis.legend(handles=handles, loc="upper center", ncols=6, columnspacing=1.0, handlelength=1.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipo.plot", description="Draw the curves of runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER", help=f"holds {METRICS_FILE}")
    parser.add_argument("--out", type=Path, help=f"PNG to write; for one run {CURVES_FILE} in its folder")
    options = parser.parse_args(arguments)
    if options.out is None and len(options.runs) > 1:
        parser.error("--out is needed to draw several runs")
    for folder in options.runs:
        if not (folder / METRICS_FILE).is_file():
            parser.error(f"{folder}: this folder holds no {METRICS_FILE}")
    out = options.out or options.runs[0] / CURVES_FILE
    plot_runs([read_run(folder.resolve().name, folder / METRICS_FILE) for folder in options.runs], out)
    print(out)


if __name__ == "__main__":
    main()
