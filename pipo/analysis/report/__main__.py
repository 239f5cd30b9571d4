"""Write the report of a run: ``python -m pipo report RUN_FOLDER``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipo.analysis.plotting.curves import plot_curves
from pipo.analysis.report.page import write_report
from pipo.analysis.report.run_files import read_folder
from pipo.errors import ConfigError
from pipo.runs.files import writing
from pipo.runs.run_log import METRICS_FILE
from pipo.runs.run_summary import CURVES_FILE, REPORT_FILE


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipo report", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="finished or not")
    parser.add_argument("--out", type=Path, help=f"page to write; default {REPORT_FILE} in the folder")
    options = parser.parse_args(arguments)
    out = options.out or options.run / REPORT_FILE
    try:
        _write(options.run, out)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(out)


def _write(folder: Path, out: Path) -> None:
    """The figure anew, and the page around it."""
    drawable = read_folder(folder).run is not None  # first, so that a folder that is no run is not touched
    with tempfile.TemporaryDirectory() as scratch, writing(out):
        curves = Path(scratch) / CURVES_FILE if drawable else None
        if curves is not None:
            plot_curves(folder / METRICS_FILE, curves)
        write_report(folder, out, curves)


if __name__ == "__main__":
    main()
