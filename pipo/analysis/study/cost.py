"""Cost study: seconds of an iteration with and without the loop, pair by pair.

A pair is an arm and its baseline with the same seed. Only iterations in which the arm made its retrospective
update are compared, with the same iterations of the baseline; of these, the middle half by seconds, because
a machine that does something else now and then makes single iterations several times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipo.analysis.plotting.bars import PHASES, finish_stacks, phase_seconds, stacked_bar
from pipo.analysis.plotting.style import STYLE, corner_note, new_figure
from pipo.analysis.run_metrics import Run
from pipo.analysis.study.plan import StudyPlan
from pipo.analysis.study.table import ArmResult, cell, complete_pairs, loop_use, seed_count, shared
from pipo.errors import ConfigError
from pipo.evaluation.over_seeds import Mean, mean
from pipo.evaluation.statistics import Floats


@dataclass(frozen=True, kw_only=True)
class PairCost:
    """Seconds of an arm and of its baseline."""

    arm: str
    """The arm."""
    base: str
    """The arm that it is compared with."""
    arm_seconds: tuple[dict[str, float], ...]
    """Phase -> mean seconds of an iteration, per seed."""
    base_seconds: tuple[dict[str, float], ...]
    """The same of the baseline, in the same order."""
    extra: Mean
    """What the arm takes on top of its baseline's seconds, as a share; over seeds."""


def measure_cost(plan: StudyPlan, arms: dict[str, ArmResult]) -> list[PairCost]:
    """Every pair of the plan that has two seeds or more.

    Raises:
        ConfigError: a run never applied its update, or logged no seconds.
    """
    found = []
    for name, base in complete_pairs(plan, arms):
        both = [
            _pair_seconds(arms[name].runs[i], arms[base].runs[j]) for i, j in shared(arms[name], arms[base])
        ]
        extra = [sum(mine.values()) / sum(other.values()) - 1 for mine, other in both]
        found.append(
            PairCost(
                arm=name,
                base=base,
                arm_seconds=tuple(mine for mine, _ in both),
                base_seconds=tuple(other for _, other in both),
                extra=mean(extra),
            )
        )
    return found


def _pair_seconds(mine: Run, other: Run) -> tuple[dict[str, float], dict[str, float]]:
    applied = {i for i, row in mine.rows.items() if row.get("pipo/applied") == 1} & set(other.rows)
    if not applied:
        raise ConfigError(f"{mine.name}: no retrospective update was made, so there is no cost to compare")
    return middle_seconds(mine, applied), middle_seconds(other, applied)


def middle_seconds(run: Run, iterations: set[int]) -> dict[str, float]:
    """Mean seconds of each phase over the middle half of these iterations, ordered by their seconds.

    Raises:
        ConfigError: the run logged no seconds of an iteration.
    """
    if not np.isfinite(run.values("time/iteration")).all():
        raise ConfigError(f"{run.name}: time/iteration is missing in its metrics")
    here = np.array([i in iterations for i in run.rows])
    order = np.argsort(run.values("time/iteration")[here])
    quarter = len(order) // 4
    middle = order[quarter : len(order) - quarter]

    def average(seconds: Floats) -> float:
        return float(seconds[here][middle].mean())

    # A probe measures, and is no cost of the method.
    return {name: average(seconds) for name, seconds in phase_seconds(run).items() if name in PHASES}


def cost_lines(
    plan: StudyPlan, arms: dict[str, ArmResult], pairs: Sequence[PairCost]
) -> list[dict[str, Any]]:
    """Two lines per pair, the baseline's first."""
    table = []
    for pair in pairs:
        for name, seconds in ((pair.base, pair.base_seconds), (pair.arm, pair.arm_seconds)):
            total = mean([sum(each.values()) for each in seconds])
            phases = {phase: float(np.mean([each.get(phase, 0.0) for each in seconds])) for phase in PHASES}
            mine = name == pair.arm
            table.append(
                {
                    "arm": name,
                    "label": plan.arms[name].label,
                    "seeds": total.seeds,
                    "seconds": total.value,
                    "seconds_half_width": total.half_width,
                    **{f"seconds_{phase}": value for phase, value in phases.items()},
                    "extra": pair.extra.value if mine else None,
                    "extra_half_width": pair.extra.half_width if mine else None,
                    **loop_use(arms[name]),
                }
            )
    return table


def cost_markdown(plan: StudyPlan, table: Sequence[dict[str, Any]]) -> str:
    """Seconds per iteration, by phase, and what the loop adds."""
    rows = [
        f"| arm | s per iteration (95 % over seeds) | {' | '.join(PHASES)} | on top of the baseline "
        "| applied | mean abs. coef. |",
        "|---" * (len(PHASES) + 5) + "|",
    ]
    for line in table:
        phases = " | ".join(f"{line[f'seconds_{phase}']:.3f}" for phase in PHASES)
        extra = "" if line["extra"] is None else f"{line['extra']:+.0%} ± {line['extra_half_width']:.0%}"
        size = line["mean_absolute_coefficient"]
        rows.append(
            f"| {cell(line['label'])} | {line['seconds']:.3f} ± {line['seconds_half_width']:.3f} | {phases} "
            f"| {extra} | {line['applied']:.2f} | {'' if size is None else f'{size:.2f}'} |"
        )
    how = (
        f"{seed_count(table)}, one run at a time, the arms of a seed one after the other. Iterations "
        "in which the update was applied, and the same of the baseline; the middle half by seconds."
    )
    return "\n".join([plan.question, "", *rows, "", how, ""])


def draw_cost(plan: StudyPlan, pairs: Sequence[PairCost]) -> Figure:
    """A stacked bar for each arm of each pair."""
    bars: list[tuple[str, tuple[dict[str, float], ...], Mean | None]] = []
    for pair in pairs:
        bars += [(pair.base, pair.base_seconds, None), (pair.arm, pair.arm_seconds, pair.extra)]
    figure = new_figure(1.0 + 0.36 * len(bars))
    with mpl.rc_context(STYLE):
        axis = figure.subplots()
        ends = [stacked_bar(axis, place, seconds) for place, (_, seconds, _) in enumerate(bars)]
        labels = [
            plan.arms[name].label + (f": {extra.value:+.0%} ± {extra.half_width:.0%}" if extra else "")
            for name, _, extra in bars
        ]
        axis.set(title="Time per iteration", xlabel="seconds")
        corner_note(axis, "bars: 95 % over seeds")
        finish_stacks(axis, labels, max(ends))
    return figure
