"""The outcome of a study: its table as NAME.md and NAME.csv, its figure as NAME.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipo.analysis.plotting.style import save
from pipo.analysis.study.agreement import (
    SHORT,
    Signals,
    agreement_table,
    clear_table,
    draw_agreement,
    measure,
)
from pipo.analysis.study.cost import cost_lines, cost_markdown, draw_cost, measure_cost
from pipo.analysis.study.figures import draw_curves, draw_pairs, draw_sweep
from pipo.analysis.study.plan import StudyPlan
from pipo.analysis.study.runner import Failure
from pipo.analysis.study.stability import draw_stability, stability_lines, stability_markdown
from pipo.analysis.study.table import (
    ArmResult,
    accuracy_lines,
    accuracy_markdown,
    compare_arms,
    complete_pairs,
    write_csv,
)
from pipo.errors import ConfigError

Arms = dict[str, ArmResult]


def write_outcome(
    plan: StudyPlan, arms: Arms, out: Path, name: str, failures: Sequence[Failure] = ()
) -> list[Path]:
    """Write table and figure; their paths, the table as Markdown first.

    Files have the study's name, because studies that share arms share a folder.

    Args:
        plan: of the study.
        arms: what there is of every arm; one with too little for an interval is left out.
        out: folder.
        name: of the study.
        failures: runs that the table names as missing.

    Raises:
        ConfigError: too few runs are there, or they lack what the figure shows.
    """
    enough = {key: arm for key, arm in arms.items() if _enough(plan, arm)}
    part = plan.part(enough)
    if not enough or (plan.figure in ("pairs", "cost") and not complete_pairs(part, enough)):
        raise ConfigError(f"{out}: no two finished runs of an arm and of what it is compared with: no table")
    table, text, figure = _content(part, enough, out)
    if failures:
        text += f"\nMissing: {', '.join(f'{each.run} (status {each.code})' for each in failures)}.\n"
    written = [out / f"{name}.{ending}" for ending in ("md", "csv", "png")]
    written[0].write_text(text, encoding="utf-8")
    write_csv(written[1], table)
    save(figure, written[2])
    return written


def _enough(plan: StudyPlan, arm: ArmResult) -> bool:
    if plan.figure == "stability":
        return len(arm.seeds) + len(arm.ended_early) > 0
    return len(arm.seeds) > 1


def _content(plan: StudyPlan, arms: Arms, out: Path) -> tuple[list[dict[str, Any]], str, Figure]:
    if plan.figure == "cost":
        pairs = measure_cost(plan, arms)
        table = cost_lines(plan, arms, pairs)
        return table, cost_markdown(plan, table), draw_cost(plan, pairs)
    differences = compare_arms(plan, arms)
    if plan.figure == "stability":
        table = stability_lines(plan, arms)
        return table, stability_markdown(plan, table, differences), draw_stability(plan, arms)
    table = accuracy_lines(plan, arms)
    text = accuracy_markdown(plan, table, differences)
    if plan.figure == "agreement":
        arm = next(iter(arms.values()))
        signals: Signals = {
            signal: each
            for signal in SHORT
            if (each := measure(out, arm.name, arm.seeds, signal)) is not None
        }
        tables = [agreement_table(signal, found, arm.seeds) for signal, (_, found) in signals.items()]
        text = "\n".join([text, clear_table(signals), *tables])
        return table, text, draw_agreement(signals, arm.seeds)
    draw = {"curves": draw_curves, "sweep": draw_sweep, "pairs": draw_pairs}[plan.figure]
    return table, text, draw(plan, arms)
