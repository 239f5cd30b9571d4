"""Draws docs/loop.png, the closed loop of docs/pipo.md: ``python docs/draw_loop.py [FILE]``."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

INK, BASE, LOOP = "#222222", "#dbe7f3", "#fbe3cd"
# Name -> place of the middle, text, colour; in the order of an iteration.
BOXES = {
    "policy": ((1.2, 3.0), "policy\n$\\pi_{\\theta_t}$", BASE),
    "sample": ((3.9, 3.0), "sample $B_t$, grade\n$\\mu_t$ = mean reward", BASE),
    "verify": ((6.9, 3.0), "verification on $B_{t-1}$\n$\\theta_t \\rightarrow \\theta'_t$", LOOP),
    "explore": ((10.0, 3.0), "exploration on $B_t$\n$\\theta'_t \\rightarrow \\theta_{t+1}$", BASE),
    "feedback": ((3.9, 1.1), "$\\xi_t = (\\mu_t - \\mu_{his}) / \\sigma_{his}$\n$\\varphi(\\xi_t)$", LOOP),
    "memory": ((6.9, 1.1), "memory\nlast $K$ rewards, $B_{t-1}$", LOOP),
}
WIDTH, HEIGHT = 2.3, 0.9


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0) -> None:
    """An arrow, straight or bent."""
    style = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def draw(file: Path) -> None:
    """Write the picture."""
    figure, axes = plt.subplots(figsize=(9, 3.6))
    axes.set(xlim=(0, 11.3), ylim=(0.3, 4.6))
    axes.set_axis_off()
    for (x, y), text, colour in BOXES.values():
        box = {"boxstyle": "round,pad=0.1", "facecolor": colour, "edgecolor": INK}
        corner = (x - WIDTH / 2 + 0.1, y - HEIGHT / 2)
        axes.add_patch(FancyBboxPatch(corner, WIDTH - 0.2, HEIGHT, **box))
        axes.text(x, y, text, ha="center", va="center", fontsize=9.5, color=INK)
    right, left, half = WIDTH / 2, -WIDTH / 2, HEIGHT / 2 + 0.1
    row = ["policy", "sample", "verify", "explore"]
    for one, other in pairwise(row):
        (x, y), (to, _) = BOXES[one][0], BOXES[other][0]
        arrow(axes, (x + right, y), (to + left, y))
    arrow(axes, (3.9, 3.0 - half), (3.9, 1.1 + half))
    arrow(axes, (6.9 + left, 1.1), (3.9 + right, 1.1))
    arrow(axes, (3.9 + 0.7, 1.1 + half), (6.9 - 0.7, 3.0 - half))
    axes.text(5.75, 1.95, r"$\hat r_i = s_{t-1,i}\,\varphi(\xi_t)$", fontsize=9, color=INK)
    arrow(axes, (6.9 + 0.7, 1.1 + half), (6.9 + 0.7, 3.0 - half))
    arrow(axes, (10.0, 3.0 - half), (6.9 + right, 1.1), bend=-0.25)
    axes.text(10.0, 1.35, "$\\mu_t$ and $B_t$\nare kept", ha="left", fontsize=9, color=INK)
    arrow(axes, (10.0, 3.0 + half), (1.2, 3.0 + half), bend=0.1)
    axes.text(5.6, 4.12, "next iteration", ha="center", fontsize=9, color=INK)
    figure.savefig(file, dpi=100, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("loop.png"))
