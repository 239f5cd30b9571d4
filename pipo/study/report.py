"""What a study writes when its runs are there: table.csv, table.md and figure.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipo.plotting.style import save
from pipo.study.agreement import agreement_table, draw_agreement, measure
from pipo.study.cost import cost_lines, cost_markdown, draw_cost, measure_cost
from pipo.study.figures import draw_curves, draw_pairs, draw_sweep
from pipo.study.plan import StudyPlan
from pipo.study.stability import draw_stability, stability_lines, stability_markdown
from pipo.study.table import ArmResult, compare, lines, markdown, write_csv


def write_report(plan: StudyPlan, arms: dict[str, ArmResult], out: Path, seeds: Sequence[int]) -> list[Path]:
    """Write table and figure; their paths, the table as Markdown first.

    Raises:
        ConfigError: the runs lack what the figure shows.
    """
    table, text, figure = _content(plan, arms, out, seeds)
    written = [out / "table.md", out / "table.csv", out / "figure.png"]
    written[0].write_text(text, encoding="utf-8")
    write_csv(written[1], table)
    save(figure, written[2])
    return written


def _content(
    plan: StudyPlan, arms: dict[str, ArmResult], out: Path, seeds: Sequence[int]
) -> tuple[list[dict[str, Any]], str, Figure]:
    if plan.figure == "cost":
        pairs = measure_cost(plan, arms)
        table = cost_lines(plan, arms, pairs)
        return table, cost_markdown(plan, table), draw_cost(plan, pairs)
    comparisons = compare(plan, arms)
    if plan.figure == "stability":
        table = stability_lines(plan, arms)
        return table, stability_markdown(plan, table, comparisons), draw_stability(plan, arms)
    table = lines(plan, arms)
    text = markdown(plan, table, comparisons)
    if plan.figure == "agreement":
        runs, found = measure(out, next(iter(arms)), seeds)
        return table, f"{text}\n{agreement_table(found, seeds)}", draw_agreement(runs, found, seeds)
    draw = {"curves": draw_curves, "sweep": draw_sweep, "pairs": draw_pairs}[plan.figure]
    return table, text, draw(plan, arms)
