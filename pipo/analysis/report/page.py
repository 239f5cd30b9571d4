"""Render ``report.html``: one file with everything inside it, nothing loaded from anywhere."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

import jinja2

from pipo.analysis.report.content import make_report
from pipo.analysis.report.run_files import read_folder
from pipo.runs.files import replace_text
from pipo.runs.run_summary import CURVES_FILE, REPORT_FILE

_TEMPLATE = "template.html"


def write_report(folder: Path, out: Path, curves: Path | None) -> None:
    """Write the report of a run; a reader sees the one before, or all of the new one.

    Args:
        folder: the run folder; the run may be unfinished.
        out: the HTML file.
        curves: the run's figure as PNG; None when nothing was logged that could be drawn.

    Raises:
        ConfigError: when this is not the folder of a training run, or naming a file that is damaged.
    """
    replace_text(out, render(folder, None if curves is None else curves.read_bytes()))


def write_run_report(folder: Path) -> None:
    """Write the report into the run folder, around the figure that is there."""
    curves = folder / CURVES_FILE
    write_report(folder, folder / REPORT_FILE, curves if curves.is_file() else None)


def render(folder: Path, curves: bytes | None) -> str:
    """The page's text. Whatever comes from a model, a data set or a command line is escaped."""
    image = None if curves is None else f"data:image/png;base64,{base64.b64encode(curves).decode('ascii')}"
    text = _template().render(report=make_report(read_folder(folder)), curves=image)
    # Data may hold half of a surrogate pair, which no file can.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _template() -> jinja2.Template:
    """Compiled once, however many reports a program writes."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(_TEMPLATE)
