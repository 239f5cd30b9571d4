"""The stability study: how large a learning rate may be, with and without the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pipo.evaluation.over_seeds import mean
from pipo.plotting.style import STYLE, look, new_figure
from pipo.run_log import Floats, Run
from pipo.study.plan import StudyPlan
from pipo.study.table import ArmResult, Comparison, comparison_rows, loop_use

_NORMS = ("policy/grad_norm", "pipo/grad_norm")
_SKIPPED = ("policy/skipped_steps", "pipo/skipped_steps")


def best_accuracy(arm: ArmResult) -> Floats:
    """The highest point of each seed's held-out curve; the highest of noisy points, so a little too high."""
    return np.array([run.series("eval/pass@1")[1].max() for run in arm.runs])


def lost_accuracy(arm: ArmResult) -> Floats:
    """From the highest point of each seed's held-out curve to its last, both measured in the same way."""
    curves = [run.series("eval/pass@1")[1] for run in arm.runs]
    return np.array([curve.max() - curve[-1] for curve in curves])


def largest_norm(run: Run) -> float:
    """Of all updates of the run, base and retrospective, before clipping."""
    return float(np.concatenate([run.series(name)[1] for name in _NORMS]).max())


def stability_lines(plan: StudyPlan, arms: dict[str, ArmResult]) -> list[dict[str, Any]]:
    """One line per arm; shares from 0 to 1."""
    table = []
    for name, arm in arms.items():
        after, best, lost = mean(arm.after), mean(best_accuracy(arm)), mean(lost_accuracy(arm))
        norms = np.array([largest_norm(run) for run in arm.runs])
        table.append(
            {
                "arm": name,
                "label": plan.arms[name].label,
                "x": plan.arms[name].x,
                "seeds": after.seeds,
                "pass@1": after.value,
                "pass@1_half_width": after.half_width,
                "pass@1_std_over_seeds": float(arm.after.std(ddof=1)),
                "pass@1_worst_seed": float(arm.after.min()),
                "best_pass@1": best.value,
                "best_pass@1_half_width": best.half_width,
                "lost": lost.value,
                "lost_half_width": lost.half_width,
                "largest_grad_norm": float(norms.max()),
                "mean_largest_grad_norm": float(norms.mean()),
                "skipped_steps": float(sum(arm.metric(each).sum() for each in _SKIPPED)),
                **loop_use(arm),
            }
        )
    return table


def stability_markdown(
    plan: StudyPlan, table: Sequence[dict[str, Any]], comparisons: Sequence[Comparison]
) -> str:
    """Final and best accuracy, spread and gradient norms, then paired differences."""
    rows = [
        "| arm | pass@1 after (95 % over seeds) | std over seeds | worst seed | best of the curve "
        "| lost since the best | largest gradient norm | skipped steps | applied | mean abs. coef. |",
        "|---" * 10 + "|",
    ]
    for line in table:
        size = line["mean_absolute_coefficient"]
        rows.append(
            f"| {line['label']} | {100 * line['pass@1']:.1f} ± {100 * line['pass@1_half_width']:.1f} "
            f"| {100 * line['pass@1_std_over_seeds']:.1f} | {100 * line['pass@1_worst_seed']:.1f} "
            f"| {100 * line['best_pass@1']:.1f} ± {100 * line['best_pass@1_half_width']:.1f} "
            f"| {100 * line['lost']:.1f} ± {100 * line['lost_half_width']:.1f} "
            f"| {line['largest_grad_norm']:.2f} | {line['skipped_steps']:.0f} | {line['applied']:.2f} "
            f"| {'' if size is None else f'{size:.2f}'} |"
        )
    seeds = f"{table[0]['seeds']} seeds; pairs share a seed. Gradient norms before clipping, of all updates."
    return "\n".join([plan.question, "", *rows, *comparison_rows(plan, comparisons), "", seeds, ""])


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
            norms = [np.array([largest_norm(run) for run in arm.runs]) for arm in mine]
            for at, values in zip(x, norms, strict=True):
                norm.plot(np.full(len(values), at), values, ".", color=look(n)["color"], alpha=0.5, ms=4)
            norm.plot(x, [values.mean() for values in norms], **look(n), ms=4, lw=1.3)
        after.set(title="After training", ylabel="pass@1, %")
        lost.set(title="Lost since the best point", ylabel="points of pass@1")
        norm.set(title="Largest gradient norm", ylabel="before clipping", yscale="log")
        norm.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        norm.yaxis.set_major_formatter("{x:g}")
        norm.yaxis.minorticks_off()
        ticks = sorted({arm.x for arm in plan.arms.values() if arm.x is not None})
        for axis in panels:
            axis.set(xscale="log", xlabel=plan.axis)
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.xaxis.minorticks_off()
        figure.legend(
            *after.get_legend_handles_labels(),
            title="means with 95 % intervals over seeds; dots: seeds",
            title_fontsize=7.5,
            loc="outside lower center",
            ncols=len(series),
        )
    return figure


def _points(axis: Axes, x: Floats, seeds: Sequence[Floats], n: int, label: str) -> None:
    """Every seed as a faint dot, the means with their 95 % intervals as a line."""
    for at, values in zip(x, seeds, strict=True):
        axis.plot(np.full(len(values), at), values, ".", color=look(n)["color"], alpha=0.4, ms=3.5)
    means = [mean(values) for values in seeds]
    axis.errorbar(
        x,
        [m.value for m in means],
        yerr=[m.half_width for m in means],
        **look(n),
        ms=4,
        lw=1.3,
        capsize=2.5,
        label=label,
    )
