"""Memory of a training run in two processes, beside one: resident, and with what they share counted once.

``resident`` adds up what each process has in memory (RSS), so that pages of libraries and files which both
have mapped are counted twice; ``proportional`` (PSS) divides a page by the processes that have it, so its
sum is what the machine has to have. Peaks of the sums over all processes of a run, looked at a few times a
second. Needs Linux. Usage::

    python bench/two_processes.py [--rounds 5] [--out two_processes.json] [key=value ...]

Further ``key=value`` arguments are those of ``train.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bench import ruler

LOOK_S = 0.2
SETTINGS = ("iterations=6", "evaluation.problems=64", "curve.every=1000")
SIDES = {"one": (), "two": ("strategy=ddp", "trainer.devices=2")}


def memory_of(root: int) -> tuple[float, float]:
    """GiB that a process and its descendants have: resident, and proportional."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family, grown = family | more, bool(more)
    resident = proportional = 0
    for pid in family:
        with suppress(OSError, ValueError):  # it has just ended
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            fields = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:] if ":" in line}
            resident, proportional = resident + fields["Rss"], proportional + fields["Pss"]
    return resident / 2**20, proportional / 2**20


def peaks(side: str, overrides: list[str]) -> tuple[float, float]:
    """Largest sums of a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "train.py",
            f"output_dir={folder}/run",
            *SETTINGS,
            *SIDES[side],
            *overrides,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        with (Path(folder) / "said").open("w+") as said:
            run = subprocess.Popen(command, cwd=ruler.ROOT, env=environment, stdout=said, stderr=said)
            seen = [memory_of(run.pid)]
            while run.poll() is None:
                time.sleep(LOOK_S)
                seen.append(memory_of(run.pid))
            said.seek(0)
            if run.returncode:
                raise SystemExit(f"{' '.join(command)}\n{said.read()}")
    resident, proportional = zip(*seen, strict=True)
    return max(resident), max(proportional)


def main() -> None:
    """Measure and print."""
    parser = ruler.parser(__doc__)
    options, overrides = parser.parse_known_args()
    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        measured = {
            side: dict(zip(("resident", "proportional"), peaks(side, overrides), strict=True))
            for side in SIDES
        }
        for kind in ("resident", "proportional"):
            for side in SIDES:
                found.setdefault(f"{kind}, {side}", []).append(measured[side][kind])
            found.setdefault(f"{kind}, ratio", []).append(measured["two"][kind] / measured["one"][kind])
    figures = {name: ruler.Spread.of(values) for name, values in found.items()}
    print(f"{options.rounds} rounds, GiB, peak of all processes of a run, median (range)")
    for name, spread in figures.items():
        print(f"{name:20s} {spread.show(2)}")
    ruler.write(options.out, figures)


if __name__ == "__main__":
    main()
