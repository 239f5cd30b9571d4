"""An evaluation as a row of a paper's table, in Markdown and in LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARKDOWN_FILE, LATEX_FILE = "table.md", "table.tex"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_MARKDOWN = {character: f"\\{character}" for character in "\\|*_`<>[]"}


def write_tables(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``table.md`` and ``table.tex``: a row for the model, a column per benchmark, the average last.

    Args:
        folder: of the evaluation.
        content: of ``results.json``.
    """
    columns = content["average"]["columns"]
    headings = ["model", *columns, "Avg"]
    values = [*(column["pass@1"] for column in columns.values()), content["average"]["pass@1"]]
    row = [content["metadata"]["model"]["name"], *(f"{100 * value:.1f}" for value in values)]
    missing = [f"not covered: {e['name']} ({e['weight']:.0%}): {e['why']}" for e in content["not_covered"]]
    (folder / MARKDOWN_FILE).write_text(_markdown(headings, row, missing), encoding="utf-8")
    (folder / LATEX_FILE).write_text(_latex(headings, row, missing), encoding="utf-8")


def _markdown(headings: Sequence[str], row: Sequence[str], missing: Sequence[str]) -> str:
    rule = ["---", *["---:"] * (len(headings) - 1)]
    shown = ([_escaped(cell, _MARKDOWN) for cell in cells] for cells in (headings, row))
    head, body = (f"| {' | '.join(cells)} |" for cells in shown)
    notes = [f"\n{_escaped(line, _MARKDOWN)}" for line in missing]
    return "\n".join([head, f"|{'|'.join(rule)}|", body, *notes]) + "\n"


def _latex(headings: Sequence[str], row: Sequence[str], missing: Sequence[str]) -> str:
    shown = ([_escaped(cell, _LATEX) for cell in cells] for cells in (headings, row))
    head, body = (f"{' & '.join(cells)} \\\\" for cells in shown)
    alignment = "l" + "r" * (len(headings) - 1)
    # A comment ends with its line, so no line may end inside one.
    notes = [f"% {' '.join(line.split())}" for line in missing]
    lines = [
        f"\\begin{{tabular}}{{{alignment}}}",
        "\\toprule",
        head,
        "\\midrule",
        body,
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(["% needs \\usepackage{booktabs}", *lines, *notes]) + "\n"


def _escaped(text: str, by: Mapping[str, str]) -> str:
    return "".join(by.get(character, character) for character in text)
