"""The files for people at the end of a run. What writes them is imported then, which no start waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipo.runs.run_summary import CARD_FILE, CURVES_FILE, REPORT_FILE


def _curves(folder: Path) -> None:
    from pipo.analysis.plotting.curves import write_curves

    write_curves(folder)


def _report(folder: Path) -> None:
    from pipo.analysis.report.page import write_run_report

    write_run_report(folder)


def _card(folder: Path) -> None:
    from pipo.analysis.card.card import write_card

    write_card(folder)


PAGES: Mapping[str, Callable[[Path], None]] = {CURVES_FILE: _curves, REPORT_FILE: _report, CARD_FILE: _card}
"""Name of each -> what writes it into the run folder, in the order in which one needs another."""
