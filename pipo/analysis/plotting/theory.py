"""Figure of the theory: gradient weight of a query over its success probability, in each kind of update."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipo.analysis.plotting.style import BLUE, DARK, GREEN, STYLE, VERMILION, corner_note, new_figure, save
from pipo.evaluation.statistics import Floats
from pipo.functional.theory import group_scaling, improvement_scaling, mixed_probability

GROUP_SIZES = (8, 128)
_DASHES = {8: "-", 128: (0, (4, 1.5))}
_TICKS = {0.001: ".001", 0.01: ".01", 0.1: ".1", 0.5: ".5", 0.9: ".9", 0.99: ".99", 0.999: ".999"}
_KINDS = {
    "group": (BLUE, "o", "group-relative advantages, η(p)"),
    "batch": (VERMILION, "s", "policy improvement in use: ξ = 1, one number for the whole batch"),
    "own": (GREEN, "^", "policy improvement as analysed: the query's own, at its bound min(p, 1 - p)"),
}


def plot_theory(out: Path) -> None:
    """Write the figure."""
    save(draw_theory(), out)


def factors(p: Floats, group_size: int, *, mixed_only: bool) -> dict[str, Floats]:
    """The factor of grad p of each kind of update, given a group with both outcomes or over all groups."""
    share = np.ones_like(p) if mixed_only else mixed_probability(p, group_size)
    return {
        "group": group_scaling(p, group_size, mixed_only=mixed_only),
        "batch": share * improvement_scaling(p, 1.0),
        "own": share * improvement_scaling(p, np.minimum(p, 1 - p)),
    }


def draw_theory() -> Figure:
    """Two panels: counting only groups with both outcomes, and counting all."""
    figure = new_figure(3.3)
    with mpl.rc_context(STYLE):
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, mixed_only=True)
        left.set(title="Groups with both outcomes", ylabel="factor of the gradient of p")
        corner_note(left, "squares, triangles: any G")
        _draw(right, mixed_only=False)
        right.set(title="All groups (the others teach nothing)")
        handles = [
            Line2D([], [], color=colour, marker=marker, ms=4, lw=1.4, label=label)
            for colour, marker, label in _KINDS.values()
        ]
        handles += [
            Line2D([], [], color=DARK, ls=_DASHES[size], lw=1.4, label=f"G = {size}") for size in GROUP_SIZES
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _draw(axis: Axes, *, mixed_only: bool) -> None:
    # Equal steps of log-odds, as the axis has them.
    odds = np.linspace(-np.log(999), np.log(999), 241)
    p = 1 / (1 + np.exp(-odds))
    for size in GROUP_SIZES:
        for start, (kind, values) in enumerate(factors(p, size, mixed_only=mixed_only).items()):
            if kind != "group" and mixed_only and size != GROUP_SIZES[0]:
                continue  # the same for every group size
            colour, marker, _ = _KINDS[kind]
            every = (8 + 12 * start + size // 8, 40)
            axis.plot(
                odds, values, color=colour, ls=_DASHES[size], lw=1.4, marker=marker, ms=4, markevery=every
            )
    axis.set_yscale("log")
    axis.set(xlabel="success probability p of the query", ylim=(2e-3, 900))
    axis.set_xticks([np.log(tick / (1 - tick)) for tick in _TICKS], list(_TICKS.values()))
    axis.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axis.minorticks_off()
