"""What the closed loop costs: the same run with and without PIPO, in turn, on this machine.

    python bench/pipo_cost.py [--rounds 5] [--iterations 14] [--out pipo_cost.json] [key=value ...]

One thread; CPU seconds by phase, for both, over the iterations in which PIPO was applied and the same ones of
the baseline. Below the table: the retrospective update's cost per trained row as a multiple of the base
update's on the same batch, and what an iteration spends outside sampling and the updates (grading, records,
logging, callbacks). Each round gives medians over its iterations; the range is over rounds. Further
``key=value`` arguments go to ``train.py``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import ruler
from bench.workload import ROOT

PHASES = ("generate", "score", "annotate", "retrospective", "update", "sync", "iteration")
ARMS = ("default", "none")
STAMPS = "stamps.json"

Row = dict[str, float]


def run(arm: str, iterations: int, overrides: Sequence[str], folder: Path) -> list[Row]:
    """One short run without evaluations to speak of; its metrics, with CPU seconds as times."""
    settings = {
        "pipo": arm,
        "iterations": iterations,
        "evaluation.problems": 8,
        "curve.every": 1_000_000,
        "output_dir": folder,
        "+callbacks.timers._target_": "bench.cpu_timers.CpuTimers",
        "+callbacks.stamps._target_": "bench.stamps.IterationStamps",
        "+callbacks.stamps.path": folder / STAMPS,
    }
    command = [sys.executable, "train.py", *(f"{key}={value}" for key, value in settings.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *overrides], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
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
    """Figures of both arms and of their comparison; a round is one run of each arm."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in (*ARMS, "comparison")}
    for arms in rounds:
        applied = [i for i, row in enumerate(arms["default"]) if row["pipo/applied"] == 1]
        kept = {arm: [rows[i] for i in applied] for arm, rows in arms.items()}
        seconds: dict[str, float] = {}
        for arm, rows in kept.items():
            for phase in PHASES:
                value = statistics.median(row.get(f"time/{phase}", 0.0) for row in rows)
                found[arm].setdefault(phase, []).append(value)
            found[arm].setdefault("overhead", []).append(statistics.median(map(overhead, rows)))
            seconds[arm] = found[arm]["iteration"][-1]
        figures = found["comparison"]
        figures.setdefault("iteration", []).append(seconds["default"] / seconds["none"])
        figures.setdefault("per_trained_row", []).append(
            statistics.median(per_trained_row(arms["default"][i - 1], arms["default"][i]) for i in applied)
        )
    return {
        name: {key: ruler.Spread.of(values) for key, values in table.items()} for name, table in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = ruler.parser(__doc__)
    parser.add_argument("--iterations", type=int, default=14, help="of each run")
    options, overrides = parser.parse_known_args()
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            rounds.append(
                {
                    arm: run(arm, options.iterations, overrides, Path(scratch) / f"{arm}{number}")
                    for arm in (ARMS if number % 2 == 0 else ARMS[::-1])
                }
            )
    figures = summarise(rounds)
    table = Table(title=f"{options.rounds} rounds, CPU seconds per iteration: median (range)")
    for heading in ("", *(f"pipo={arm}" for arm in ARMS)):
        table.add_column(heading, justify="right" if heading else "left")
    for phase in (*PHASES, "overhead"):
        table.add_row(phase, *(figures[arm][phase].show(4) for arm in ARMS))
    console = Console()
    console.print(table)
    comparison = figures["comparison"]
    console.print(f"an iteration with PIPO / without: {comparison['iteration'].show(2)}")
    console.print(f"retrospective / base update, per trained row: {comparison['per_trained_row'].show(2)}")
    ruler.write(options.out, figures)


if __name__ == "__main__":
    main()
