"""Stability study: accuracy, gradient norms and divergence over the learning rate, with and without the loop.

A run that diverged is an outcome here. It has no accuracy after training, so means are of the runs that
reached their end, and the table says how many did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pipo.analysis.plotting.style import STYLE, look, new_figure
from pipo.analysis.run_metrics import Run
from pipo.analysis.study.plan import StudyPlan
from pipo.analysis.study.table import ArmDifference, ArmResult, cell, difference_rows, loop_use
from pipo.errors import ConfigError
from pipo.evaluation.over_seeds import mean
from pipo.evaluation.statistics import Floats
from pipo.runs.run_log import ACCURACY

_NORMS = ("policy/grad_norm", "pipo/grad_norm")
_SKIPPED = ("policy/skipped_steps", "pipo/skipped_steps")
# Ticks that stand level beside each other in a third of a page, and labels beside each other in the legend.
_LEVEL, _COLUMNS = 4, 4


def best_accuracy(arm: ArmResult) -> Floats:
    """The highest point of each seed's held-out curve; the highest of noisy points, so a little too high."""
    return np.array([_curve(run).max() for run in arm.runs])


def lost_accuracy(arm: ArmResult) -> Floats:
    """From the highest point of each seed's held-out curve to its last, both measured in the same way."""
    curves = [_curve(run) for run in arm.runs]
    return np.array([curve.max() - curve[-1] for curve in curves])


def _curve(run: Run) -> Floats:
    points = run.series(ACCURACY)[1]
    if not len(points):
        raise ConfigError(
            f"{run.name}: no point of the held-out curve in its metrics; a stability study needs curve.every "
            "of at most iterations"
        )
    return points


def largest_norms(arm: ArmResult) -> Floats:
    """Largest norm of each run, those that diverged last; infinite there and where a step was skipped.

    Norms are of all updates, base and retrospective, before clipping. A skipped step logs none, because its
    gradient or its loss was not finite.
    """
    return np.array([*(_largest_norm(run) for run in arm.runs), *(np.inf for _ in arm.ended_early)])


def _largest_norm(run: Run) -> float:
    norms = np.concatenate([run.series(name)[1] for name in _NORMS])
    return np.inf if _skipped(run) or not len(norms) else float(norms.max())


def _skipped(run: Run) -> float:
    """Skipped steps of the iterations that were logged."""
    return float(sum(run.values(name, missing=0.0).sum() for name in _SKIPPED))


def _mean(name: str, values: Floats) -> dict[str, float | None]:
    """Two fields of a line: a mean and its half-width, which needs two runs."""
    m = mean(values) if len(values) > 1 else None
    only = float(values[0]) if len(values) == 1 else None
    return {name: m.value if m else only, f"{name}_half_width": m.half_width if m else None}


def stability_lines(plan: StudyPlan, arms: dict[str, ArmResult]) -> list[dict[str, Any]]:
    """One line per arm; shares from 0 to 1."""
    table = []
    for name, arm in arms.items():
        norms = largest_norms(arm)
        table.append(
            {
                "arm": name,
                "label": plan.arms[name].label,
                "x": plan.arms[name].x,
                "seeds": len(arm.seeds),
                "ended_early": len(arm.ended_early),
                **_mean("pass@1", arm.after),
                "pass@1_std_over_seeds": float(arm.after.std(ddof=1)) if len(arm.after) > 1 else None,
                "pass@1_worst_seed": float(arm.after.min()) if len(arm.after) else None,
                **_mean("best_pass@1", best_accuracy(arm)),
                **_mean("lost", lost_accuracy(arm)),
                "largest_grad_norm": float(norms.max()),
                "mean_largest_grad_norm": float(norms.mean()),
                "skipped_steps": sum(_skipped(run) for run in (*arm.runs, *arm.ended_early)),
                **loop_use(arm),
            }
        )
    return table


def stability_markdown(
    plan: StudyPlan, table: Sequence[dict[str, Any]], differences: Sequence[ArmDifference]
) -> str:
    """Final and best accuracy, spread and gradient norms, then paired differences."""
    rows = [
        "| arm | ended early | pass@1 after (95 % over seeds) | std over seeds | worst seed "
        "| best of the curve | lost since the best | largest gradient norm | skipped steps | applied "
        "| mean abs. coef. |",
        "|---" * 11 + "|",
    ]
    for line in table:
        size = line["mean_absolute_coefficient"]
        rows.append(
            f"| {cell(line['label'])} | {line['ended_early']}/{line['seeds'] + line['ended_early']} "
            f"| {_percent(line, 'pass@1')} | {_percent(line, 'pass@1_std_over_seeds')} "
            f"| {_percent(line, 'pass@1_worst_seed')} | {_percent(line, 'best_pass@1')} "
            f"| {_percent(line, 'lost')} | {line['largest_grad_norm']:.2f} | {line['skipped_steps']:.0f} "
            f"| {line['applied']:.2f} | {'' if size is None else f'{size:.2f}'} |"
        )
    how = (
        "Pairs share a seed. Gradient norms before clipping, of all updates; inf: not finite, the step was "
        "skipped. Ended early: the numbers stayed so until the run gave up; means are of the other runs, and "
        "a pair that lacks one of its runs is left out."
    )
    return "\n".join([plan.question, "", *rows, *difference_rows(plan, differences), "", how, ""])


def _within(axis: Axes, low: float, high: float) -> tuple[float, float]:
    """What an axis shows, cut to what its values can be, with the margin that a marker at the end takes."""
    below, above = axis.get_ylim()
    below, above = max(below, low), min(above, high)
    margin = 0.04 * (above - below)
    return below - margin, above + margin


def _percent(line: dict[str, Any], name: str) -> str:
    """A field of a line with its half-width, if it has one; empty when no run reached its end."""
    value, width = line[name], line.get(f"{name}_half_width")
    if value is None:
        return ""
    return f"{100 * value:.1f}" + ("" if width is None else f" ± {100 * width:.1f}")


def draw_stability(plan: StudyPlan, arms: dict[str, ArmResult]) -> Figure:
    """Final accuracy, what was lost since the best point, and the largest gradient norm, over the rate."""
    figure = new_figure(3.0)
    with mpl.rc_context(STYLE):
        panels = figure.subplots(1, 3)
        after, lost, norm = panels
        series = list(dict.fromkeys(plan.arms[name].series for name in arms))
        for n, name in enumerate(series):
            mine = [arm for key, arm in arms.items() if plan.arms[key].series == name]
            x = np.array([plan.arms[arm.name].x for arm in mine], dtype=np.float64)
            # Side by side: factors of a few per cent on an axis of doublings.
            x *= 1 + 0.07 * (n - (len(series) - 1) / 2)
            _points(after, x, [100 * arm.after for arm in mine], n, name)
            _points(lost, x, [100 * lost_accuracy(arm) for arm in mine], n, name)
            norms = [largest_norms(arm) for arm in mine]
            for at, values in zip(x, norms, strict=True):
                norm.plot(np.full(len(values), at), values, ".", color=look(n)["color"], alpha=0.5, ms=4)
                if not np.isfinite(values).all():
                    top = norm.get_xaxis_transform()
                    norm.plot([at], [0.95], "x", color=look(n)["color"], ms=5, transform=top)
            norm.plot(x, [values.mean() for values in norms], **look(n), ms=4, lw=1.3)
        # An interval of two runs that differ reaches far beyond what accuracy can be.
        after.set(title="After training", ylabel="pass@1, %", ylim=_within(after, 0, 100))
        lost.set(title="Lost since the best point", ylabel="points of pass@1", ylim=_within(lost, 0, 100))
        norm.set(title="Largest gradient norm", ylabel="before clipping (x: not finite)", yscale="log")
        norm.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        norm.yaxis.set_major_formatter("{x:g}")
        norm.yaxis.minorticks_off()
        ticks = sorted({arm.x for arm in plan.arms.values() if arm.x is not None})
        for axis in panels:
            axis.set(xscale="log", xlabel=plan.axis)
            axis.set_xticks(
                ticks, [_short(tick) for tick in ticks], rotation=45 if len(ticks) > _LEVEL else 0
            )
            axis.xaxis.minorticks_off()
        figure.legend(
            *after.get_legend_handles_labels(),
            title="means with 95 % intervals over seeds; dots: seeds",
            title_fontsize=7.5,
            loc="outside lower center",
            ncols=min(len(series), _COLUMNS),
        )
    return figure


def _short(value: float) -> str:
    """A number as people type it: 1e-6 and not 1e-06 or 0.000001."""
    return f"{value:g}" if value >= 1e-2 else f"{value:.0e}".replace("e-0", "e-")


def _points(axis: Axes, x: Floats, seeds: Sequence[Floats], n: int, label: str) -> None:
    """Every seed as a faint dot, the means with their 95 % intervals as a line."""
    for at, values in zip(x, seeds, strict=True):
        axis.plot(np.full(len(values), at), values, ".", color=look(n)["color"], alpha=0.4, ms=3.5)
    there = np.array([len(values) > 0 for values in seeds])
    means = [values.mean() for values in seeds if len(values)]
    # One run has no interval.
    widths = [mean(values).half_width if len(values) > 1 else 0.0 for values in seeds if len(values)]
    axis.errorbar(x[there], means, yerr=widths, **look(n), ms=4, lw=1.3, capsize=2.5, label=label)
