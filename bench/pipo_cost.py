"""Overhead of PIPO and of measuring: the same run with and without, in turn, on this machine.

    python bench/pipo_cost.py [--rounds 5] [--iterations 14] [--fractions 0.5,0.25] [--out pipo_cost.json]

One thread; CPU seconds by phase, for the baseline, the baseline with its iterations measured, step control,
PIPO, and PIPO at each ``pipo.row_fraction``, over the iterations in which PIPO was applied in all its runs.
Below the table: the iteration as a multiple of the baseline's, and the retrospective update's cost per
trained row as a multiple of the base update's on the same batch. ``overhead`` is what an iteration spends
outside sampling and the updates: grading, records, logging, callbacks. Each round gives means over its
iterations; the range is over rounds. ``--follow`` lets the fractions follow the coefficient.
Further ``key=value`` arguments go to ``train.py``.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import starmap
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import ruler

PHASES = ("generate", "score", "annotate", "look_back", "retrospective", "update", "sync", "iteration")
BASELINE, EXACT = "pipo=none", "pipo=default"
MEASURED, CONTROLLED = "pipo=none improvement=device", "pipo=step_control"
STAMPS = "stamps.json"

Row = dict[str, float]


def run(arm: str, iterations: int, overrides: Sequence[str], folder: Path) -> list[Row]:
    """One short run without evaluations to speak of; its metrics, with CPU seconds as times."""
    settings = {
        "iterations": iterations,
        "evaluation.problems": 8,
        "curve.every": 1_000_000,
        "output_dir": folder,
        "+callbacks.timers._target_": "bench.cpu_timers.CpuTimers",
        "+callbacks.stamps._target_": "bench.stamps.IterationStamps",
        "+callbacks.stamps.path": folder / STAMPS,
    }
    chosen = arm.split()
    command = [sys.executable, "train.py", *chosen, *(f"{key}={value}" for key, value in settings.items())]
    ruler.run_program([*command, *overrides])
    rows: list[Row] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    stamps = json.loads((folder / STAMPS).read_text())["rows"]
    # The module's own figure leaves out what happens between two iterations.
    return [{**row, "time/iteration": stamp["cpu"]} for row, stamp in zip(rows, stamps, strict=True)]


def per_trained_row(before: Row, row: Row) -> float:
    """Cost of a retrospective update per trained row, relative to the base update on the same batch."""
    retrospective = row["time/retrospective"] / row["pipo/trained_rows"]
    return retrospective / (before["time/update"] / before["policy/trained_rows"])


def overhead(row: Row) -> float:
    """CPU seconds outside sampling and the updates."""
    work = ("generate", "retrospective", "update")
    return row["time/iteration"] - sum(row.get(f"time/{phase}", 0.0) for phase in work)


def summarise(rounds: Sequence[dict[str, list[Row]]]) -> dict[str, dict[str, ruler.Spread]]:
    """Figures of every arm, also as multiples of the baseline; a round is one run of each arm."""
    arms = list(rounds[0])
    found: dict[str, dict[str, list[float]]] = {arm: {} for arm in arms}
    for each in rounds:
        looped = [rows for arm, rows in each.items() if any("pipo/applied" in row for row in rows)]
        applied = [
            i for i in range(len(each[BASELINE])) if all(rows[i]["pipo/applied"] == 1 for rows in looped)
        ]
        for arm in arms:
            rows = [each[arm][i] for i in applied]
            figures = {
                phase: statistics.mean(row.get(f"time/{phase}", 0.0) for row in rows) for phase in PHASES
            }
            figures["overhead"] = statistics.mean(map(overhead, rows))
            base = statistics.mean(each[BASELINE][i]["time/iteration"] for i in applied)
            figures["of the baseline"] = figures["iteration"] / base
            if each[arm] in looped:
                pairs = [(each[arm][i - 1], each[arm][i]) for i in applied]
                figures["per trained row"] = statistics.mean(starmap(per_trained_row, pairs))
            for name, value in figures.items():
                found[arm].setdefault(name, []).append(value)
    return {
        arm: {key: ruler.Spread.of(values) for key, values in table.items()} for arm, table in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = ruler.parser(__doc__)
    parser.add_argument("--iterations", type=int, default=14, help="of each run")
    parser.add_argument("--fractions", default="", help="values of pipo.row_fraction, with commas between")
    parser.add_argument("--follow", action="store_true", help="pipo.rows_follow_coefficient at the fractions")
    options, overrides = parser.parse_known_args()
    more = " pipo.rows_follow_coefficient=true" if options.follow else ""
    fractions = [f"pipo.row_fraction={f}{more}" for f in options.fractions.split(",") if f]
    arms = [BASELINE, MEASURED, CONTROLLED, EXACT, *fractions]
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            order = arms if number % 2 == 0 else arms[::-1]
            made = {
                arm: run(arm, options.iterations, overrides, Path(scratch) / f"{arms.index(arm)}-{number}")
                for arm in order
            }
            rounds.append({arm: made[arm] for arm in arms})
    figures = summarise(rounds)
    table = Table(title=f"{options.rounds} rounds, CPU seconds per iteration: median (range)")
    table.add_column("")
    for arm in arms:
        table.add_column(arm.removeprefix("pipo."), justify="right", overflow="fold")
    for name in figures[EXACT]:
        cells = [figures[arm][name].show(4) if name in figures[arm] else "" for arm in arms]
        table.add_row(name, *cells)
    Console(width=max(80, 30 * (len(arms) + 1))).print(table)
    ruler.write(options.out, figures)


if __name__ == "__main__":
    main()
