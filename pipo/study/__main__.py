"""``python -m pipo.study NAME``: the tables of the paper in small, on the embedded model, and controls."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pipo.errors import ConfigError
from pipo.study.plan import known_studies, load_plan
from pipo.study.report import write_report
from pipo.study.runner import run_study
from pipo.study.table import read_arm


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write table.csv, table.md and the figure."""
    parser = argparse.ArgumentParser(prog="python -m pipo.study", description=__doc__)
    parser.add_argument("study", help=f"{', '.join(known_studies())}, or a YAML file like theirs")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the study's own")
    parser.add_argument("--arms", nargs="+", help="some of the study's arms; default all")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each"
    )
    parser.add_argument("--out", type=Path, help="folder; default outputs/study/NAME")
    options = parser.parse_args(arguments)
    # SIGTERM as Ctrl-C: the runs save and stop, instead of going on without the study.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        plan = load_plan(options.study)
        if options.arms:
            plan = plan.only(options.arms)
        seeds = options.seeds or list(plan.seeds)
        if len(seeds) < 2 or len(set(seeds)) != len(seeds) or options.jobs < 1:
            raise ConfigError("--seeds: at least two different ones are needed; --jobs: at least one")
        out = (options.out or Path("outputs/study") / Path(options.study).stem).resolve()
        run_study(plan, seeds, out, options.jobs)
        arms = {name: read_arm(plan, name, seeds, out) for name in plan.arms}
        written = write_report(plan, arms, out, seeds)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    print(written[0].read_text(encoding="utf-8"))
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
