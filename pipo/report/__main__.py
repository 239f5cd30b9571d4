"""Write the report of a run: ``python -m pipo.report RUN_FOLDER``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipo.errors import ConfigError
from pipo.plotting.dashboard import CURVES_FILE, plot_curves
from pipo.report.page import REPORT_FILE, write_report
from pipo.run_log import METRICS_FILE


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipo.report", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="finished or not")
    parser.add_argument("--out", type=Path, help=f"page to write; default {REPORT_FILE} in the folder")
    options = parser.parse_args(arguments)
    out = options.out or options.run / REPORT_FILE
    metrics = options.run / METRICS_FILE
    with tempfile.TemporaryDirectory() as scratch:
        curves = None
        if metrics.exists() and metrics.stat().st_size:
            curves = Path(scratch) / CURVES_FILE
            plot_curves(metrics, curves)
        try:
            write_report(options.run, out, curves)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
    print(out)


if __name__ == "__main__":
    main()
