"""Draw runs: ``python -m pipo plot FOLDER...``; the figure of the theory: ``python -m pipo plot --theory``.

A folder is a run, or holds runs: a sweep or a study is one argument. Runs that differ in nothing but their
seed are drawn as one line with its interval, and named by what sets them apart from the others.
``--group NAME=FOLDER,FOLDER`` says by hand what belongs together; the same NAME again adds to its runs, which
is also the way for folders with a comma in their name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipo.analysis.plotting.curves import plot_groups
from pipo.analysis.plotting.groups import Group, find_groups, read_group
from pipo.analysis.plotting.theory import plot_theory
from pipo.errors import ConfigError
from pipo.runs.files import writing
from pipo.runs.run_summary import CURVES_FILE

_FORMATS = (".png", ".pdf", ".svg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipo plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="a run, or a folder of runs")
    parser.add_argument(
        "--group", action="append", default=[], metavar="NAME=FOLDER,...", help="runs to draw as one line"
    )
    parser.add_argument("--theory", action="store_true", help="eta(p) and the policy-improvement factor")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"{', '.join(_FORMATS)} to write; for one FOLDER {CURVES_FILE} in it if not given",
    )
    options = parser.parse_args(arguments)
    if options.theory == bool(options.folders or options.group):
        parser.error("give folders of runs, --group NAME=FOLDER,..., or --theory alone")
    single = options.folders[0] / CURVES_FILE if len(options.folders) == 1 and not options.group else None
    out = options.out or single
    if out is None:
        parser.error("--out is needed to draw several folders, or the theory")
    if out.suffix.lower() not in _FORMATS:
        parser.error(f"--out {out}: the name has to end in {', '.join(_FORMATS)}")
    try:
        groups = _groups(options.folders, options.group)
        with writing(out):
            if options.theory:
                plot_theory(out)
            else:
                plot_groups(groups, out)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(out)


def _groups(folders: Sequence[Path], named: Sequence[str]) -> list[Group]:
    """Groups named by hand first, then those found."""
    members: dict[str, list[Path]] = {}
    for entry in named:
        name, added = _named(entry)
        members.setdefault(name, []).extend(added)
    groups = [read_group(name, each) for name, each in members.items()]
    return [*groups, *(find_groups(folders) if folders else [])]


def _named(entry: str) -> tuple[str, list[Path]]:
    """Name and folders of a ``--group``.

    Names and folders of sweeps hold ``=`` and ``,`` themselves, as in ``0-pipo=none,seed=1``: of the ways to
    read an entry the first counts whose folders are there.
    """
    ends = [n for n, letter in enumerate(entry) if letter == "="]
    readings = [(entry[:n], entry[n + 1 :]) for n in ends if n]
    if not readings or "" in readings[0][1].split(","):
        raise ConfigError(f"--group {entry}: write NAME=FOLDER,FOLDER,...")
    for name, rest in readings:
        for folders in ([rest], rest.split(",")):
            if all(folder and Path(folder).is_dir() for folder in folders):
                return name, [Path(folder) for folder in folders]
    name, rest = readings[0]
    return name, [Path(folder) for folder in rest.split(",")]


if __name__ == "__main__":
    main()
