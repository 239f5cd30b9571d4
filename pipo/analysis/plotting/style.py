"""Style of all figures: sizes, colours, markers, and the parts that every kind of panel needs.

Colours are Okabe and Ito's, which stay apart for colour-blind readers. Whatever a colour says, a marker, a
dash pattern or a hatch says as well, so that a figure survives a black-and-white printer. Figures are as wide
as the text of a page and their letters are not scaled on the way there.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

WIDTH = 7.0
"""Inches: the text width of a page."""

DOTS_PER_INCH = 200

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, DARK = "#8C8C8C", "#555555"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
)
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": DARK,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "hatch.linewidth": 0.6,
}


def look(number: int) -> dict[str, Any]:
    """Colour, dash pattern and marker of the n-th line; all three differ between neighbours."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "ls": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


class Page(Figure):
    """A figure that has its style wherever it is drawn, in a notebook, too."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Write it."""
        with mpl.rc_context(STYLE):
            super().savefig(fname, **{"dpi": DOTS_PER_INCH, **options})

    def _repr_png_(self) -> bytes:
        """What a notebook shows of it."""
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


def new_figure(height: float) -> Figure:
    """An empty figure, ``height`` inches high, that can be written without a window or global state."""
    figure = Page(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, out: Path) -> None:
    """Write it; the folder is made when it is not there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() != ".png":
        figure.savefig(out)
        return
    with mpl.rc_context(STYLE):  # savefig would draw all of it twice, once for its layout alone
        figure.set_dpi(DOTS_PER_INCH)
        FigureCanvasAgg(figure).print_png(str(out))


def iteration_axis(axis: Axes, last: int) -> None:
    """The same range in every panel, so that they can be read against each other."""
    axis.set(xlabel="iteration", xlim=(-0.5 - 0.015 * last, last + 0.5 + 0.015 * last))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]))


def corner_note(axis: Axes, text: str) -> None:
    """A remark at the height of the title, on the right."""
    axis.set_title(text, loc="right", fontsize=6.5, fontweight="normal", color=DARK)


def say_missing(axis: Axes, text: str) -> None:
    """Words instead of an empty frame."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=DARK, wrap=True)
    axis.set(xticks=[], yticks=[], xlabel="", ylabel="")
    axis.grid(False)


def time_unit(seconds: Sequence[float]) -> tuple[float, str]:
    """What to divide seconds by, so that an axis up to the largest of them is easy to read; the unit."""
    longest = max(seconds)
    if longest < 600:
        return 1.0, "seconds"
    return (60.0, "minutes") if longest < 7200 else (3600.0, "hours")
