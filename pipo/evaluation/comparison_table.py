"""A comparison as a table and in words: what ``python eval.py compare A B`` prints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipo.errors import ConfigError
from pipo.evaluation.compare import CONFIDENCE, Comparison, Difference, compare
from pipo.evaluation.results_file import EvaluationFile, read_results


def print_comparison(arguments: Sequence[str]) -> None:
    """Compare two evaluations on the terminal; nothing is written.

    Args:
        arguments: two folders or result files.

    Raises:
        ConfigError: they cannot be compared.
    """
    if len(arguments) != 2:
        raise ConfigError(
            f"compare takes two evaluations, folders or results.json files; {len(arguments)} were given"
        )
    first, second = (read_results(Path(argument).expanduser()) for argument in arguments)
    comparison = compare(first, second)
    console = Console()
    console.print(comparison_table(comparison))
    console.print(comparison_text(comparison, first, second), highlight=False, markup=False, soft_wrap=True)


def comparison_table(comparison: Comparison) -> Table:
    """One row per part, and the average; 80 characters wide unless names are long."""
    table = Table(
        title="pass@1 (%), B minus A",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        padding=0,
    )
    table.add_column("part", overflow="fold")
    interval = f"B - A\n\\[{CONFIDENCE:.0%} interval]"
    for heading in ("prob-\nlems", "A", "B", interval, "p", "p\n(Holm)", "better/\nequal/worse"):
        table.add_column(heading, justify="right", no_wrap=True)
    for part, difference in comparison.parts.items():
        table.add_row(escape(part), *_cells(difference), end_section=part == list(comparison.parts)[-1])
    if comparison.average is not None:
        table.add_row("average", *_cells(comparison.average))
    return table


def _cells(each: Difference) -> list[str]:
    between = each.difference
    return [
        str(each.problems),
        f"{100 * each.first:.1f}",
        f"{100 * each.second:.1f}",
        f"{_points(between.value)} \\[{_points(between.low)}, {_points(between.high)}]",
        _p(each.p),
        "" if each.adjusted is None else _p(each.adjusted),
        f"{each.wins}/{each.ties}/{each.losses}",
    ]


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<.001"


def comparison_text(comparison: Comparison, first: EvaluationFile, second: EvaluationFile) -> str:
    """What was compared, what it means in words, and what a reader must know."""
    lines = [f"A: {_named(first)}", f"B: {_named(second)}"]
    if comparison.average is not None:
        lines.append(_sentence("On average over the columns", comparison.average, len(comparison.parts)))
    if len(comparison.parts) == 1:
        ((part, difference),) = comparison.parts.items()
        lines.append(_sentence(f"On {part}", difference, 1))
    else:
        lines.append(_several(comparison.parts))
    return "\n".join([*lines, *(f"note: {note}" for note in comparison.notes)])


def _named(evaluation: EvaluationFile) -> str:
    return f"{evaluation.model} ({os.path.normpath(evaluation.path)})"


def _sentence(where: str, each: Difference, parts: int) -> str:
    base = f"{each.problems} problems" + (f" in {parts} parts" if parts > 1 else "")
    if each.wins + each.losses == 0:
        return f"{where} A and B do not differ at a single one of {base}."
    points = f"{abs(100 * each.difference.value):.1f}"
    side = "above" if each.difference.value > 0 else "below"
    found = "level with" if points == "0.0" else f"{points} points {side}"
    p = "p < 0.001" if each.p < 0.001 else f"p = {each.p:.3f}"
    if each.significant:
        return f"{where} B is {found} A: significant at {CONFIDENCE:.0%} ({p}, {base})."
    verdict = f"not significant at {CONFIDENCE:.0%} ({p})"
    return f"{where} B is {found} A: {verdict}; {base} do not tell the two apart."


def _several(parts: Mapping[str, Difference]) -> str:
    """The parts are several questions, so each is asked more of than one alone."""
    better = [part for part, each in parts.items() if each.significant and each.difference.value > 0]
    worse = [part for part, each in parts.items() if each.significant and each.difference.value < 0]
    said = [f"B is better on {', '.join(better)}"] if better else []
    said += [f"B is worse on {', '.join(worse)}"] if worse else []
    verdict = " and ".join(said) or "no part differs significantly"
    return f"With Holm's correction for {len(parts)} comparisons: {verdict} at {CONFIDENCE:.0%}."
