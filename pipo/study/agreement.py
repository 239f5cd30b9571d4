"""The agreement study: how often the sign of the feedback is the sign of what happened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipo.errors import ConfigError
from pipo.evaluation.agreement import Agreement, agreement, realised_change
from pipo.evaluation.over_seeds import CONFIDENCE, mean
from pipo.plotting.style import BLUE, COLOURS, DARK, MARKERS, STYLE, new_figure
from pipo.run_log import PROBE_FILE, Floats, read_metrics
from pipo.study.runner import run_folder

# Of the agreement's bootstrap: blocks as long as the default window, whose values share measurements.
BLOCK, RESAMPLES = 8, 2000

ProbeRows = tuple[Floats, Floats]
"""Progress [iterations], nan where undefined, and rewards [iterations, prompts] of a run."""

Found = dict[int, list[Agreement]]
"""Iterations that the change is measured against -> agreement of every run."""


def measure(out: Path, arm: str, seeds: Sequence[int]) -> tuple[list[ProbeRows], Found]:
    """What the probes of an arm's runs hold, and the agreement of each, by window.

    Raises:
        ConfigError: a run has no probe.
    """
    runs = [_probe(run_folder(out, arm, seed)) for seed in seeds]
    return runs, {window: [_agreement(*run, window) for run in runs] for window in (1, BLOCK)}


def draw_agreement(runs: Sequence[ProbeRows], found: Found, seeds: Sequence[int]) -> Figure:
    """Progress against realised change, and the share of equal signs of every run."""
    figure = new_figure(3.1)
    with mpl.rc_context(STYLE):
        left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
        for xi, rewards in runs:
            change = 100 * realised_change(rewards).mean(axis=1)
            left.plot(xi, change, ".", color=BLUE, alpha=0.3, ms=4)
        left.axhline(0, color=DARK, lw=0.8)
        left.axvline(0, color=DARK, lw=0.8)
        left.set(
            title="Feedback and realised change",
            xlabel="feedback ξ, in std of the window",
            ylabel="change of the probe's reward, points",
        )
        for n, (window, results) in enumerate(found.items()):
            values = [each.sign for each in results]
            error = np.array([[v.value - v.low for v in values], [v.high - v.value for v in values]])
            right.errorbar(
                [v.value for v in values],
                np.arange(len(seeds)) + 0.3 * n,
                xerr=np.clip(error, 0, None),
                fmt=MARKERS[n],
                ms=4,
                color=COLOURS[n],
                capsize=2,
                label="change against the last iteration" if window == 1 else f"against the last {window}",
            )
        right.axvline(0.5, color=DARK, lw=0.8, ls="--")
        right.set(title="Share of equal signs", xlabel="share (0.5: chance)", ylabel="seed", xlim=(0, 1))
        right.set_yticks(range(len(seeds)), [str(seed) for seed in seeds])
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=len(found))
    return figure


def agreement_table(found: Found, seeds: Sequence[int]) -> str:
    """The numbers of the right-hand panel and more, as Markdown."""
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


def _probe(folder: Path) -> ProbeRows:
    """Progress [iterations], nan where undefined, and rewards [iterations, prompts] of a run."""
    path = folder / PROBE_FILE
    if not path.is_file():
        raise ConfigError(f"{path}: missing; an agreement study needs probe.prompts in its overrides")
    rows = read_metrics(path)
    progress = [np.nan if row["progress"] is None else row["progress"] for row in rows]
    return np.array(progress), np.array([row["rewards"] for row in rows])


def _agreement(progress: Floats, rewards: Floats, window: int) -> Agreement:
    return agreement(
        progress,
        rewards,
        window=window,
        block=BLOCK,
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        seed=0,
    )
