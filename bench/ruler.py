"""CPU time, peak memory and spreads for the benchmarks, and their common command line."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MIN_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Several measurements of one quantity."""

    median: float
    """Median of all measurements."""
    low: float
    """Smallest measurement."""
    high: float
    """Largest measurement."""
    count: int
    """Number of measurements."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one measurement."""
        return cls(median=statistics.median(values), low=min(values), high=max(values), count=len(values))

    def show(self, digits: int = 3) -> str:
        """``0.370 (0.361-0.402)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU time of this process during a call: other work on the machine hardly changes it."""
    start = time.process_time()
    action()
    return time.process_time() - start


def family_cpu_seconds() -> float:
    """CPU time so far of this process and of those that it has started and waited for."""
    uses = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def extra_memory(action: Callable[[], object]) -> float:
    """GiB by which the largest resident memory during a call exceeds that before it. Needs Linux.

    Blocks above 32 MiB, which are what matters here, go back to the system as soon as they are freed, so what
    earlier calls had used does not hide anything of this one.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far is forgotten
    before = _resident("VmRSS")
    action()
    return (_resident("VmHWM") - before) / 2**20


def peak_memory() -> float:
    """Largest resident memory of this program so far, in GiB. Needs Linux.

    Not the resource usage of the process, which a program inherits from whoever started it.
    """
    return _resident("VmHWM") / 2**20


def _resident(field: str) -> int:
    """KiB, as the kernel counts them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def run_program(command: Sequence[str], threads: int = 1) -> None:
    """Run one side of a comparison from the repository's root; what it printed is shown if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    # Else the side that pip did not install would be compiled at every start.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


def parser(description: str | None, rounds: int = MIN_ROUNDS) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help="measurements of each side")
    made.add_argument("--out", type=Path, required=False, help="JSON file for the figures")
    return made


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Leave the figures as JSON, spreads included."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1, default=asdict) + "\n", encoding="utf-8")
