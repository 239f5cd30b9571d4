"""Accuracy of a study's arms and paired differences between them, with intervals over seeds.

A run without a result is left out of its arm, and its seed out of the pairs of that arm.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from pipo.analysis.run_metrics import Run, read_run
from pipo.analysis.study.plan import StudyPlan
from pipo.analysis.study.runner import diverged, finished, run_folder
from pipo.evaluation.over_seeds import Mean, mean
from pipo.evaluation.statistics import Floats, holm, sign_flip_p
from pipo.runs.run_log import METRICS_FILE

# Sign patterns that are counted one by one: all of them for up to 16 seeds, drawn with the seed beyond.
SIGN_PATTERNS = 2**16
SEED = 0


@dataclass(frozen=True, kw_only=True)
class ArmDifference:
    """An arm minus another, pair by pair of the same seed."""

    arm: str
    """The arm."""
    other: str
    """The arm that it is compared with."""
    difference: Mean
    """Mean difference of held-out pass@1 after training."""
    p_value: float
    """Exact sign-flip test of "the pairs differ by chance", two-sided; see :func:`smallest_p`."""
    adjusted: float
    """The same by Holm's method for all comparisons of the study."""


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """The runs of an arm."""

    name: str
    """Name of the arm."""
    seeds: tuple[int, ...]
    """Seeds of the finished runs; everything per seed is in this order."""
    ended_early: tuple[Run, ...]
    """Metrics of the runs that diverged."""
    before: Floats
    """Held-out pass@1 before training, per seed."""
    after: Floats
    """Held-out pass@1 after training, per seed."""
    runs: tuple[Run, ...]
    """Metrics of the runs, per seed."""
    seconds: Floats
    """Seconds of a whole run without its held-out scoring, per seed."""
    responses: Floats
    """Responses sampled for training, per seed."""

    def metric(self, name: str) -> Floats:
        """All values of a metric over seeds and iterations; empty when none was logged."""
        return np.concatenate([np.array([]), *(run.series(name)[1] for run in self.runs)])


def read_arm(name: str, seeds: Sequence[int], out: Path) -> ArmResult:
    """Read the runs of an arm that have a result, and those that diverged."""
    complete = tuple(seed for seed in seeds if finished(out, name, seed))
    early = [run_folder(out, name, seed) for seed in seeds if diverged(out, name, seed)]
    folders = [run_folder(out, name, seed) for seed in complete]
    summaries = [json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in folders]
    runs = tuple(read_run(folder.name, folder / METRICS_FILE) for folder in folders)
    per_round = [int(OmegaConf.load(folder / "config.yaml").recipe.responses) for folder in folders]
    rounds = [sum(row.get("rollout/rounds", 1.0) for row in run.rows.values()) for run in runs]
    return ArmResult(
        name=name,
        seeds=complete,
        # One that diverged in its first iteration has logged none.
        ended_early=tuple(
            read_run(folder.name, folder / METRICS_FILE)
            if (folder / METRICS_FILE).is_file() and (folder / METRICS_FILE).stat().st_size
            else Run(name=folder.name, rows={})
            for folder in early
        ),
        before=np.array([summary["before"]["pass@1"] for summary in summaries]),
        after=np.array([summary["after"]["pass@1"] for summary in summaries]),
        runs=runs,
        seconds=np.array([run.values("time/iteration", missing=0.0).sum() for run in runs]),
        responses=np.array(per_round) * np.array(rounds),
    )


def shared(one: ArmResult, other: ArmResult) -> list[tuple[int, int]]:
    """Places in both of every seed that both have."""
    return [(one.seeds.index(seed), other.seeds.index(seed)) for seed in one.seeds if seed in other.seeds]


def paired_difference(one: ArmResult, other: ArmResult) -> Floats:
    """Held-out pass@1 after training, one minus the other, for every seed that both have."""
    return np.array([one.after[i] - other.after[j] for i, j in shared(one, other)])


def complete_pairs(plan: StudyPlan, arms: dict[str, ArmResult]) -> list[tuple[str, str]]:
    """Arms and what they are compared with, as far as two seeds or more are there for an interval."""
    return [
        (name, other)
        for name, arm in plan.arms.items()
        for other in arm.against
        if len(shared(arms[name], arms[other])) > 1
    ]


def compare_arms(plan: StudyPlan, arms: dict[str, ArmResult]) -> list[ArmDifference]:
    """Every comparison that the plan asks for and the runs allow."""
    pairs = complete_pairs(plan, arms)
    differences = [paired_difference(arms[name], arms[other]) for name, other in pairs]
    p_values = [sign_flip_p(difference, SIGN_PATTERNS, SEED) for difference in differences]
    return [
        ArmDifference(arm=name, other=other, difference=mean(difference), p_value=p_value, adjusted=adjusted)
        for (name, other), difference, p_value, adjusted in zip(
            pairs, differences, p_values, holm(p_values), strict=True
        )
    ]


def smallest_p(pairs: int) -> float:
    """The smallest p-value that so many pairs can have: all differences on one side."""
    return 2 / 2**pairs if 2**pairs <= SIGN_PATTERNS else 1 / (SIGN_PATTERNS + 1)


def loop_use(arm: ArmResult) -> dict[str, float | None]:
    """How much the loop did, over seeds and iterations: share of iterations with an update, coefficients."""
    applied, coefficients = arm.metric("pipo/applied"), arm.metric("pipo/coefficient")
    known = len(coefficients) > 0
    return {
        "applied": float(applied.mean()) if len(applied) else 0.0,
        "mean_coefficient": float(coefficients.mean()) if known else None,
        "mean_absolute_coefficient": float(np.abs(coefficients).mean()) if known else None,
    }


def accuracy_lines(plan: StudyPlan, arms: dict[str, ArmResult]) -> list[dict[str, Any]]:
    """One line per arm, numbers as they are; shares from 0 to 1."""
    table = []
    for name, arm in arms.items():
        before, after = mean(arm.before), mean(arm.after)
        table.append(
            {
                "arm": name,
                "label": plan.arms[name].label,
                "seeds": after.seeds,
                "sampled_responses": float(arm.responses.mean()),
                "pass@1_before": before.value,
                "pass@1": after.value,
                "pass@1_half_width": after.half_width,
                "seconds": float(arm.seconds.mean()),
                **loop_use(arm),
            }
        )
    return table


def write_csv(path: Path, table: list[dict[str, Any]]) -> None:
    """The lines as a file for further use."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def accuracy_markdown(plan: StudyPlan, table: list[dict[str, Any]], differences: list[ArmDifference]) -> str:
    """The study's answer as Markdown: arms, then paired differences."""
    rows = [
        "| arm | pass@1 before | after (95 % over seeds) | responses | s of loop | applied | mean coef. "
        "| mean abs. coef. |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in table:
        signed, size = line["mean_coefficient"], line["mean_absolute_coefficient"]
        rows.append(
            f"| {cell(line['label'])} | {100 * line['pass@1_before']:.1f} | {100 * line['pass@1']:.1f} "
            f"± {100 * line['pass@1_half_width']:.1f} | {line['sampled_responses']:,.0f} "
            f"| {line['seconds']:.0f} | {line['applied']:.2f} | {'' if signed is None else f'{signed:+.2f}'} "
            f"| {'' if size is None else f'{size:.2f}'} |"
        )
    return "\n".join(
        [
            plan.question,
            "",
            *rows,
            *difference_rows(plan, differences),
            "",
            f"{seed_count(table)}; pairs share a seed.",
            "",
        ]
    )


def seed_count(table: Sequence[dict[str, Any]]) -> str:
    """How many finished runs the arms have, in words."""
    counts = sorted({line["seeds"] for line in table})
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def difference_rows(plan: StudyPlan, differences: Sequence[ArmDifference]) -> list[str]:
    """Paired differences as lines of Markdown, and what p can be at best; none when there are none."""
    if not differences:
        return []
    rows = [
        "",
        "| difference, points of pass@1 | mean (95 % over seeds) | pairs | p (sign flips) | p (Holm) |",
        "|---|---|---|---|---|",
    ]
    for each in differences:
        value, width = 100 * each.difference.value, 100 * each.difference.half_width
        one, other = cell(plan.arms[each.arm].label), cell(plan.arms[each.other].label)
        rows.append(
            f"| {one} minus {other} | {value:+.1f} ± {width:.1f} | {each.difference.seeds} "
            f"| {each.p_value:.3f} | {each.adjusted:.3f} |"
        )
    pairs = sorted({each.difference.seeds for each in differences})
    least = ", ".join(f"{smallest_p(n):.2g} with {n} pairs" for n in pairs)
    best = min(1.0, len(differences) * smallest_p(pairs[-1]))
    return [
        *rows,
        "",
        f"Smallest possible p: {least}; p (Holm) is adjusted for all differences above ({len(differences)}) "
        f"and can be {best:.2g} at best.",
    ]


def cell(label: str) -> str:
    """A label inside a Markdown table."""
    return label.replace("|", r"\|")
