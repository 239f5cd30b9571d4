"""Agreement study: sign agreement of the feedback with the realised change, run by run and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipo.analysis.plotting.style import BLUE, COLOURS, DARK, MARKERS, STYLE, new_figure
from pipo.analysis.study.runner import run_folder
from pipo.errors import ConfigError
from pipo.evaluation.agreement import (
    Agreement,
    agreement,
    clear_changes,
    probe_arrays,
    where_it_can_tell,
)
from pipo.evaluation.over_seeds import CONFIDENCE, mean
from pipo.evaluation.statistics import Estimate, Floats
from pipo.runs.run_log import PROBE_FILE, read_metrics

# Of the agreement's bootstrap: blocks as long as the default window, whose values share measurements.
BLOCK, RESAMPLES = 8, 2000

ProbeRows = tuple[Floats, Floats]
"""A signal [iterations], nan where undefined, and rewards [iterations, prompts] of a run."""

Found = dict[int, list[Agreement]]
"""Iterations that the change is measured against -> agreement of every run."""

Signal = Literal["progress", "evidence"]

Signals = Mapping[Signal, tuple[list[ProbeRows], Found]]
"""What every run's probe says about each signal."""

TITLES: Mapping[Signal, str] = {"progress": "Published feedback", "evidence": "Measured improvement"}
UNITS: Mapping[Signal, str] = {
    "progress": "ξ, in std of the window",
    "evidence": "evidence z, in standard errors",
}
SHORT: Mapping[Signal, str] = {"progress": "ξ", "evidence": "z"}
#: A realised change is clear of the probe's own noise beyond so many of its standard errors.
ERRORS = 2.0


def measure(
    out: Path, arm: str, seeds: Sequence[int], signal: Signal
) -> tuple[list[ProbeRows], Found] | None:
    """What the probes of an arm's runs hold, and the agreement of each, by window; None without the signal.

    Raises:
        ConfigError: a run has no probe, or too little to compare.
    """
    folders = [run_folder(out, arm, seed) for seed in seeds]
    runs = [_probe(folder, signal) for folder in folders]
    if signal == "evidence" and not all(np.isfinite(values).any() for values, _ in runs):
        return None
    found = {
        window: [_agreement(folder, *run, window) for folder, run in zip(folders, runs, strict=True)]
        for window in (1, BLOCK)
    }
    return runs, found


def draw_agreement(signals: Signals, seeds: Sequence[int]) -> Figure:
    """Each signal against the realised change; every run's share of equal signs, and the share by chance."""
    figure = new_figure(3.1)
    with mpl.rc_context(STYLE):
        *scatters, right = figure.subplots(1, len(signals) + 1)
        for axis, (signal, (runs, _)) in zip(scatters, signals.items(), strict=True):
            for values, rewards in runs:
                change, clear = clear_changes(rewards, ERRORS)
                for chosen, alpha in ((clear, 0.8), (~clear, 0.2)):
                    axis.plot(values[chosen], 100 * change[chosen], ".", color=BLUE, alpha=alpha, ms=4, mew=0)
            axis.axhline(0, color=DARK, lw=0.8)
            axis.axvline(0, color=DARK, lw=0.8)
            axis.set(title=TITLES[signal], xlabel=UNITS[signal])
        scatters[0].set_ylabel("change of the probe's reward, points")
        shares = [
            (f"{SHORT[signal]}, last {'iteration' if window == 1 else window}", results)
            for signal, (_, found) in signals.items()
            for window, results in found.items()
            if signal == "progress" or window == 1
        ]
        for n, (label, results) in enumerate(shares):
            values = [each.sign for each in results]
            error = np.array([[v.value - v.low for v in values], [v.high - v.value for v in values]])
            places = np.arange(len(seeds)) + 0.25 * n
            right.plot([each.expected for each in results], places, "|", color=DARK, ms=10, mew=1.5)
            right.errorbar(
                [v.value for v in values],
                places,
                xerr=np.clip(error, 0, None),
                fmt=MARKERS[n],
                ms=4,
                color=COLOURS[n],
                capsize=2,
                label=label,
            )
        right.set(title="Share of equal signs", xlabel="share (black: by chance)", ylabel="seed", xlim=(0, 1))
        right.set_yticks(range(len(seeds)), [str(seed) for seed in seeds])
        figure.legend(
            *right.get_legend_handles_labels(),
            title=f"dark dots: changes beyond {ERRORS:g} standard errors of the probe",
            title_fontsize=7.5,
            loc="outside lower center",
            ncols=len(shares),
        )
    return figure


def clear_table(signals: Signals) -> str:
    """How often each signal is right where the probe can tell, over all runs, as Markdown."""
    lines = [
        f"| signal | right, of the changes beyond {ERRORS:g} standard errors of the probe | share |",
        "|---|---|---|",
    ]
    for signal, (runs, _) in signals.items():
        counts = [where_it_can_tell(*run, ERRORS) for run in runs]
        right, clear = (sum(column) for column in zip(*counts, strict=True))
        share = f"{right / clear:.2f}" if clear else ""
        lines.append(f"| {SHORT[signal]} | {right} of {clear} | {share} |")
    return "\n".join(lines) + "\n"


def agreement_table(signal: Signal, found: Found, seeds: Sequence[int]) -> str:
    """The numbers of the right-hand panel and more, as Markdown."""
    name = SHORT[signal]
    lines = [
        f"| seed | change against | iterations | ties left out | {name} > 0 | change > 0 | equal signs "
        "| by chance | equal signs minus chance | correlation | reliability of the probe |",
        "|---" * 11 + "|",
    ]
    for window, results in found.items():
        for seed, each in zip(seeds, results, strict=True):
            sign = each.sign
            lines.append(
                f"| {seed} | last {window} | {each.iterations} | {each.ties} | {each.positive_progress:.2f} "
                f"| {each.positive_change:.2f} | {sign.value:.2f} [{sign.low:.2f}, {sign.high:.2f}] "
                f"| {each.expected:.2f} | {_signed(each.excess)} | {_signed(each.correlation)} "
                f"| {each.reliability:.2f} |"
            )
        per_run = [(e.sign.value, e.expected, e.excess.value, e.correlation.value) for e in results]
        sign, chance, excess, correlation = (mean(values) for values in zip(*per_run, strict=True))
        lines.append(
            f"| mean of {len(seeds)} seeds | last {window} | | {sum(each.ties for each in results)} in all "
            f"| | | {sign.value:.2f} ± {sign.half_width:.2f} | {chance.value:.2f} ± {chance.half_width:.2f} "
            f"| {excess.value:+.2f} ± {excess.half_width:.2f} "
            f"| {correlation.value:+.2f} ± {correlation.half_width:.2f} | |"
        )
    lines += [
        "",
        f"By chance: p q + (1 - p)(1 - q) with p the share of {name} > 0 and q that of changes > 0, what the "
        f"same signs would give without a relation. Ties: {name} or the change is exactly zero.",
    ]
    one_sided = [
        f"seed {seed} (last {window})"
        for window, results in found.items()
        for seed, each in zip(seeds, results, strict=True)
        if each.one_sided
    ]
    if one_sided:
        lines += [
            "",
            f"{name} or the change has one sign only, so signs say nothing: {', '.join(one_sided)}.",
        ]
    return "\n".join(lines) + "\n"


def _signed(value: Estimate) -> str:
    return f"{value.value:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def _probe(folder: Path, signal: Signal) -> ProbeRows:
    path = folder / PROBE_FILE
    if not path.is_file():
        raise ConfigError(f"{path}: missing; an agreement study needs probe.prompts in its overrides")
    return probe_arrays(read_metrics(path), signal)


def _agreement(folder: Path, progress: Floats, rewards: Floats, window: int) -> Agreement:
    try:
        return agreement(
            progress,
            rewards,
            window=window,
            block=BLOCK,
            confidence=CONFIDENCE,
            resamples=RESAMPLES,
            seed=0,
        )
    except ValueError as error:
        raise ConfigError(f"{folder / PROBE_FILE}: too short a run to compare: {error}") from error
