"""Report on this machine: packages, GPUs, cores, memory, disks and sandbox, with advice on what is wrong.

``python -m pipo doctor`` prints it; whatever it finds, its exit status is 0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipo.doctor.finding import Finding
from pipo.doctor.gpus import asked_driver, compiler, describe, torch_build
from pipo.doctor.machine import cores_and_memory, disks
from pipo.doctor.packages import packages
from pipo.doctor.sandbox import sandbox


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="python -m pipo doctor", description=__doc__)
    parser.add_argument(
        "output", nargs="?", default="outputs", type=Path, help="folder that runs are to go to"
    )
    parser.add_argument("--json", action="store_true", help="one list of findings for programs to read")
    options = parser.parse_args(arguments)
    findings = list(examine(options.output))
    if options.json:
        print(json.dumps([asdict(each) for each in findings], indent=2))
        return
    console = Console()
    for about, group in groupby(findings, key=lambda each: each.about):
        console.print(_table(about, list(group)))
    advised = sum(each.advice is not None for each in findings)
    console.print(f"{advised} to look at, marked with ->" if advised else "nothing is wrong")
    console.print("python -m pipo_sandbox shows what a program under test could do just now", markup=False)


def examine(output: Path) -> Iterator[Finding]:
    """Everything there is to find, part by part; some of it takes seconds.

    Args:
        output: the folder of runs, which need not be there yet.
    """
    cards = asked_driver()
    yield from packages(gpus=bool(cards))
    yield from describe(cards, torch_build())
    yield compiler(cards)
    yield from cores_and_memory()
    yield from disks(output)
    yield sandbox()


def _table(about: str, findings: list[Finding]) -> Table:
    table = Table(
        "", "found", title=about, title_justify="left", title_style="bold", show_header=False, box=None
    )
    for each in findings:
        text = Text(each.found)
        if each.advice is not None:
            text.append(f"\n-> {each.advice}", style="yellow")
        table.add_row(each.name, text)
    return table


if __name__ == "__main__":
    main()
