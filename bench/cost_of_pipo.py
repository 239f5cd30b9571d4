"""What the closed loop costs: the same run with and without PIPO, in turn, on this machine.

    python bench/cost_of_pipo.py [--rounds 3] [--iterations 40] [--fractions 1,0.25] [key=value ...]

Prints, for PIPO at each ``pipo.row_fraction`` and for the baseline, the median seconds of an iteration by
phase, their ratio to the baseline's, and sampled tokens per second. Further ``key=value`` arguments go to
``train.py``. Only iterations in which every arm but the baseline had a retrospective update are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
PHASES = ("generate", "score", "annotate", "retrospective", "update", "sync", "iteration")
BASELINE = "pipo=none"


def run(arm: str, iterations: int, overrides: list[str], folder: Path) -> list[dict[str, float]]:
    """One short run without evaluations to speak of; its metrics."""
    command = [sys.executable, str(ROOT / "train.py"), arm, f"iterations={iterations}"]
    quick = ["evaluation.problems=8", "curve.every=1000000", f"output_dir={folder}"]
    subprocess.run([*command, *quick, *overrides], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def measure(
    arms: list[str], rounds: int, iterations: int, overrides: list[str]
) -> dict[str, list[dict[str, float]]]:
    """Rows of all arms at the iterations that count, over all rounds; the arms take turns."""
    kept: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            rows = {
                arm: run(arm, iterations, overrides, Path(scratch) / f"{arms.index(arm)}-{number}")
                for arm in (arms if number % 2 == 0 else arms[::-1])
            }
            looped = [rows[arm] for arm in arms if arm != BASELINE]
            applied = [i for i in range(iterations) if all(each[i]["pipo/applied"] == 1 for each in looped)]
            for arm in arms:
                kept[arm] += [rows[arm][i] for i in applied]
    return kept


def show(kept: dict[str, list[dict[str, float]]]) -> None:
    """Print the table."""
    table = Table(title=f"median of {len(kept[BASELINE])} iterations each, seconds (times the baseline's)")
    table.add_column("")
    for arm in kept:
        table.add_column(arm, justify="right", overflow="fold")
    median = {
        arm: {p: statistics.median(row.get(f"time/{p}", 0.0) for row in rows) for p in PHASES}
        for arm, rows in kept.items()
    }
    for phase in PHASES:
        base = median[BASELINE][phase]
        values = [median[arm][phase] for arm in kept]
        table.add_row(phase, *[f"{v:.4f} ({v / base:.2f})" if base else f"{v:.4f}" for v in values])
    speed = [statistics.median(row["train/tokens_per_second"] for row in rows) for rows in kept.values()]
    table.add_row("sampled tokens / s", *[f"{each:,.0f}" for each in speed])
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--iterations", type=int, default=40, help="of each run")
    parser.add_argument("--fractions", default="1", help="values of pipo.row_fraction, with commas between")
    options, overrides = parser.parse_known_args()
    arms = [*[f"pipo.row_fraction={fraction}" for fraction in options.fractions.split(",")], BASELINE]
    show(measure(arms, options.rounds, options.iterations, overrides))


if __name__ == "__main__":
    main()
