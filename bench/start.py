"""Time from the start of the program to the first iteration: ``train.py``, our function ``train``, and TRL.

    python bench/start.py [--rounds 5] [--out start.json]

The case ``plain`` of ``bench/vs_trl.py``, with a single iteration: each side imports what it needs, reads
the same model and prompts and gets ready; one response is scored before training here. Seconds by the clock
and of processor time, with files in the system's cache, as the first round is not counted. TRL runs in
``.venv-bench``, which ``make bench`` sets up.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import ruler, vs_trl, workload

CASE = replace(vs_trl.CASES["plain"], iterations=1)
CALL = "import sys, pipo; pipo.train(*sys.argv[1:])"


def by_function(case: vs_trl.Case, folder: Path, seed: int, out: Path) -> dict[str, Any]:
    """One run of the function that scripts call."""
    ruler.run_program([sys.executable, "-c", CALL, *vs_trl.words(case, folder, seed, out)])
    return json.loads((out / vs_trl.OURS).read_text(encoding="utf-8"))


SIDES = {"train.py": vs_trl.ours, "API": by_function, "TRL": vs_trl.theirs}


def one_round(folder: Path, number: int, scratch: Path) -> dict[str, dict[str, float]]:
    """Every side once; the order turns."""
    names = list(SIDES)
    names = names[number % 3 :] + names[: number % 3]
    found = {}
    for name in names:
        out = scratch / f"{name}{number}"
        out.mkdir()
        launched = time.time()
        stamps = SIDES[name](CASE, folder, number, out)
        found[name] = {"wall": stamps["began"] - launched, "cpu": stamps["start_cpu"]}
    return found


def main() -> None:
    """Measure and print."""
    options = ruler.parser(__doc__).parse_args()
    if not vs_trl.PEER.exists():
        sys.exit(f"{vs_trl.PEER} is missing; make bench sets it up")
    with tempfile.TemporaryDirectory() as scratch:
        folder = workload.prepare(CASE.source, Path(scratch) / "workload", CASE.vocabulary)
        rounds = [one_round(folder, number, Path(scratch)) for number in range(options.rounds + 1)][1:]
    ruler.write(options.out, {"rounds": rounds})
    table = Table(title=f"start to first iteration, {len(rounds)} rounds: median (range)")
    for heading in ("", "seconds", "CPU seconds", "of TRL's seconds", "of TRL's CPU seconds"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in SIDES:
        own = [ruler.Spread.of([each[name][key] for each in rounds]).show(2) for key in ("wall", "cpu")]
        ratios = [
            ruler.Spread.of([each[name][key] / each["TRL"][key] for each in rounds]).show(2)
            for key in ("wall", "cpu")
        ]
        table.add_row(name, *own, *(ratios if name != "TRL" else ()))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
