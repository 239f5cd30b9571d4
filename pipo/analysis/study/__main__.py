"""``python -m pipo study NAME``: the tables of the paper in small, on the embedded model, and controls."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pipo.analysis.study.outcome import write_outcome
from pipo.analysis.study.plan import known_studies, load_plan
from pipo.analysis.study.runner import Failure, run_study
from pipo.analysis.study.table import read_arm
from pipo.errors import ConfigError
from pipo.runs.places import check_output


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write NAME.csv, NAME.md and the figure NAME.png.

    Exit status 1 when runs failed: the table is about the others then.
    """
    options = _parser().parse_args(arguments)
    # SIGTERM as Ctrl-C: the runs save and stop, instead of going on without the study.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failures: list[Failure] = []
    try:
        _check(options)
        plan = load_plan(options.study)
        if options.arms:
            plan = plan.only(options.arms)
        seeds = options.seeds or list(plan.seeds)
        name = Path(options.study).stem
        out = (options.out or Path("outputs/study") / name).resolve()
        check_output(out, "--out")
        failures = run_study(plan, seeds, out, options.jobs)
        arms = {arm: read_arm(arm, seeds, out) for arm in plan.arms}
        written = write_outcome(plan, arms, out, name, failures)
    except ConfigError as error:
        _tell(failures)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if failures else 2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    print(written[0].read_text(encoding="utf-8"))
    for path in written:
        print(path)
    if failures:
        _tell(failures)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipo study", description=__doc__)
    parser.add_argument("study", help=f"{', '.join(known_studies())}, or a YAML file like theirs")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the study's own")
    parser.add_argument("--arms", nargs="+", help="some of the study's arms; default all")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each"
    )
    parser.add_argument("--out", type=Path, help="folder; default outputs/study/NAME")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers that no study can run with.

    Raises:
        ConfigError: naming the option.
    """
    if options.jobs < 1:
        raise ConfigError(f"--jobs: at least 1, got {options.jobs}")
    seeds = options.seeds
    if seeds is None:
        return
    if min(seeds) < 0:
        raise ConfigError(f"--seeds: a seed is not negative, got {min(seeds)}")
    if len(seeds) < 2 or len(set(seeds)) != len(seeds):
        raise ConfigError("--seeds: at least two different ones are needed for an interval")


def _tell(failures: Sequence[Failure]) -> None:
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if failures:
        print("the same command tries them again", file=sys.stderr)


if __name__ == "__main__":
    main()
