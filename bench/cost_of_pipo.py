"""What the closed loop costs: the same run with and without PIPO, in turn, on this machine.

    python bench/cost_of_pipo.py [--rounds 3] [--iterations 40] [key=value ...]

Prints, for both, the median seconds per iteration by phase and tokens per second, and the ratio of the two.
Further ``key=value`` arguments go to ``train.py``. Only iterations in which PIPO was applied are compared,
with the same iterations of the baseline.
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
ARMS = ("default", "none")


def run(arm: str, iterations: int, overrides: list[str], folder: Path) -> list[dict[str, float]]:
    """One short run without evaluations to speak of; its metrics."""
    command = [sys.executable, str(ROOT / "train.py"), f"pipo={arm}", f"iterations={iterations}"]
    quick = ["evaluation.problems=8", "curve.every=1000000", f"output_dir={folder}"]
    subprocess.run([*command, *quick, *overrides], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def measure(rounds: int, iterations: int, overrides: list[str]) -> dict[str, list[dict[str, float]]]:
    """Rows of both arms at the iterations that count, over all rounds; the arms take turns."""
    kept: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            rows = {
                arm: run(arm, iterations, overrides, Path(scratch) / f"{arm}{number}")
                for arm in (ARMS if number % 2 == 0 else ARMS[::-1])
            }
            applied = [i for i, row in enumerate(rows["default"]) if row["pipo/applied"] == 1]
            for arm in ARMS:
                kept[arm] += [rows[arm][i] for i in applied]
    return kept


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--iterations", type=int, default=40, help="of each run")
    options, overrides = parser.parse_known_args()
    kept = measure(options.rounds, options.iterations, overrides)
    table = Table(title=f"median of {len(kept['none'])} iterations each, seconds")
    for heading in ("", "pipo=default", "share", "pipo=none", "share", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    median = {
        arm: {p: statistics.median(row.get(f"time/{p}", 0.0) for row in rows) for p in PHASES}
        for arm, rows in kept.items()
    }
    for phase in PHASES:
        cells = [phase]
        for arm in ARMS:
            value = median[arm][phase]
            cells += [f"{value:.4f}", f"{value / median[arm]['iteration']:.0%}"]
        both = [median[arm][phase] for arm in ARMS]
        table.add_row(*cells, f"{both[0] / both[1]:.2f}" if min(both) > 0 else "")
    console = Console()
    console.print(table)
    for arm in ARMS:
        speed = statistics.median(row["train/tokens_per_second"] for row in kept[arm])
        console.print(f"pipo={arm}: {speed:,.0f} sampled tokens per second of the whole iteration")


if __name__ == "__main__":
    main()
