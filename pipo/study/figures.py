"""The figure of a study: curves with bands over seeds, a sweep, or how often the feedback's sign is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from pipo.errors import ConfigError
from pipo.evaluation.agreement import Agreement, agreement, realised_change
from pipo.plot import BLUE, GREY, RUN_COLOURS, STYLE, VERMILION
from pipo.run_log import PROBE_FILE, Floats, read_metrics
from pipo.study.plan import StudyPlan
from pipo.study.runner import run_folder
from pipo.study.table import CONFIDENCE, ArmResult, mean

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Of the agreement's bootstrap: blocks as long as the default window, whose values share measurements.
BLOCK, RESAMPLES = 8, 2000


def draw_study(plan: StudyPlan, arms: dict[str, ArmResult], out: Path, seeds: Sequence[int]) -> list[Path]:
    """Write the study's figure, and for an agreement its table; the paths."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    written = [out / "figure.png"]
    with mpl.rc_context(STYLE):
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        if plan.figure == "agreement":
            written.append(_agreement(plan, arms, out, seeds, left, right))
        else:
            (_curves if plan.figure == "curves" else _sweep)(plan, arms, left)
            _endpoints(plan, arms, right)
        figure.savefig(written[0], dpi=160)
    return written


def _curves(plan: StudyPlan, arms: dict[str, ArmResult], axis: Axes) -> None:
    """Held-out accuracy by iteration: the mean over seeds and its band."""
    for (name, arm), colour, marker in zip(arms.items(), RUN_COLOURS, MARKERS, strict=False):
        iterations = [run.series("eval/pass@1") for run in arm.runs]
        at = iterations[0][0]
        table = np.array([values for _, values in iterations])
        centre = table.mean(axis=0)
        width = stats.t.ppf((1 + CONFIDENCE) / 2, len(table) - 1) * stats.sem(table, axis=0)
        axis.fill_between(at, 100 * (centre - width), 100 * (centre + width), color=colour, alpha=0.18, lw=0)
        axis.plot(at, 100 * centre, color=colour, marker=marker, ms=3.5, lw=1.4, label=plan.arms[name].label)
    axis.set(title="Held-out accuracy in training", xlabel="iteration", ylabel="pass@1, %")
    axis.legend(loc="lower right")


def _sweep(plan: StudyPlan, arms: dict[str, ArmResult], axis: Axes) -> None:
    """Final accuracy over the swept value; arms without one are horizontal bands."""
    points = [(plan.arms[name].x, mean(arm.after)) for name, arm in arms.items()]
    at = [(x, m) for x, m in points if x is not None]
    places = np.arange(len(at))
    axis.errorbar(
        places,
        [100 * m.value for _, m in at],
        yerr=[100 * m.half_width for _, m in at],
        fmt="o-",
        color=BLUE,
        capsize=3,
        label="with PIPO",
    )
    for name, arm in arms.items():
        if plan.arms[name].x is None:
            m = mean(arm.after)
            low, high = 100 * (m.value - m.half_width), 100 * (m.value + m.half_width)
            axis.axhspan(low, high, color=GREY, alpha=0.25, lw=0)
            axis.axhline(100 * m.value, color="#555555", lw=1, ls="--", label=plan.arms[name].label)
    # Equal steps: the values of these sweeps double, or begin with zero.
    axis.set(title="After training", xlabel=plan.axis, ylabel="pass@1, %", xticks=places)
    axis.set_xticklabels([f"{x:g}" for x, _ in at])
    axis.legend(loc="best")


def _endpoints(plan: StudyPlan, arms: dict[str, ArmResult], axis: Axes) -> None:
    """Every seed as a dot, the mean with its interval as a bar."""
    names = list(arms)
    for place, (name, colour) in enumerate(zip(names, [*RUN_COLOURS] * len(names), strict=False)):
        after = arms[name].after
        m = mean(after)
        axis.plot(100 * after, np.full(len(after), place), ".", color=colour, alpha=0.5, ms=5)
        axis.errorbar(
            100 * m.value, place + 0.22, xerr=100 * m.half_width, fmt="|", color=colour, capsize=3, ms=9
        )
    axis.set(title="Each seed, and the mean", xlabel="pass@1 after training, %", yticks=range(len(names)))
    axis.set_yticklabels([plan.arms[name].label for name in names])
    axis.invert_yaxis()


def _agreement(
    plan: StudyPlan, arms: dict[str, ArmResult], out: Path, seeds: Sequence[int], left: Axes, right: Axes
) -> Path:
    """Progress against realised change, and the agreement of every run; the table's path."""
    name = next(iter(arms))
    runs = [_probe(run_folder(out, name, seed)) for seed in seeds]
    found = {window: [_measure(*run, window) for run in runs] for window in (1, BLOCK)}
    for xi, rewards in runs:
        change = 100 * realised_change(rewards).mean(axis=1)
        left.plot(xi, change, ".", color=BLUE, alpha=0.3, ms=4)
    left.axhline(0, color="#555555", lw=0.8)
    left.axvline(0, color="#555555", lw=0.8)
    left.set(
        title="What the feedback says, and what happened",
        xlabel="progress ξ, standard deviations",
        ylabel="change of the probe's reward, points",
    )
    for window, colour, shift in ((1, BLUE, 0.0), (BLOCK, VERMILION, 0.25)):
        places = np.arange(len(seeds)) + shift
        values = [each.sign for each in found[window]]
        error = np.array([[v.value - v.low for v in values], [v.high - v.value for v in values]])
        label = "against the last iteration" if window == 1 else f"against the last {window}"
        right.errorbar(
            [v.value for v in values],
            places,
            xerr=np.clip(error, 0, None),
            fmt="o",
            ms=4,
            color=colour,
            capsize=2,
            label=label,
        )
    right.axvline(0.5, color="#555555", lw=0.8, ls="--")
    right.set(title="Share of equal signs", xlabel="share (0.5: chance)", ylabel="seed", xlim=(0, 1))
    right.set_yticks(range(len(seeds)), [str(seed) for seed in seeds])
    right.legend(loc="lower right")
    path = out / "agreement.md"
    path.write_text(_agreement_table(found, seeds), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return path


def _agreement_table(found: dict[int, list[Agreement]], seeds: Sequence[int]) -> str:
    lines = [
        "| seed | change against | iterations | equal signs | correlation | reliability of the probe |",
        "|---|---|---|---|---|---|",
    ]
    for window, results in found.items():
        for seed, each in zip(seeds, results, strict=True):
            sign, corr = each.sign, each.correlation
            lines.append(
                f"| {seed} | last {window} | {each.iterations} "
                f"| {sign.value:.2f} [{sign.low:.2f}, {sign.high:.2f}] "
                f"| {corr.value:+.2f} [{corr.low:+.2f}, {corr.high:+.2f}] | {each.reliability:.2f} |"
            )
        signs = mean(np.array([each.sign.value for each in results]))
        correlations = mean(np.array([each.correlation.value for each in results]))
        lines.append(
            f"| mean of {len(seeds)} seeds | last {window} | | {signs.value:.2f} ± {signs.half_width:.2f} "
            f"| {correlations.value:+.2f} ± {correlations.half_width:.2f} | |"
        )
    return "\n".join(lines) + "\n"


def _probe(folder: Path) -> tuple[Floats, Floats]:
    """Progress [iterations], nan where undefined, and rewards [iterations, prompts] of a run."""
    path = folder / PROBE_FILE
    if not path.is_file():
        raise ConfigError(f"{path}: missing; an agreement study needs probe.prompts in its overrides")
    rows = read_metrics(path)
    progress = [np.nan if row["progress"] is None else row["progress"] for row in rows]
    return np.array(progress), np.array([row["rewards"] for row in rows])


def _measure(progress: Floats, rewards: Floats, window: int) -> Agreement:
    return agreement(
        progress,
        rewards,
        window=window,
        block=BLOCK,
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        seed=0,
    )
