"""Parts of the first look at a GPU: questions with the answers that are expected, and what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from tests.conftest import ROOT

Device = Literal["cuda", "cpu"]
# What no run of the first look needs: scores before and after.
QUICK = ("evaluation.problems=8", "evaluation.samples=1", "evaluation.ks=[1]", "curve.samples=1")


class Skipped(Exception):
    """A question that cannot be asked here, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came out."""

    good: bool
    """Whether it is what was expected."""
    found: str
    """In one line."""
    values: dict[str, Any] = field(default_factory=dict)
    """Numbers, for whoever reads the file."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where questions are asked."""

    device: Device
    """``cpu`` rehearses: the same questions, on sizes that a laptop does in a minute."""
    folder: Path
    """For runs and models."""
    deadline: Callable[[], float]
    """Seconds that are left."""

    @property
    def rehearsal(self) -> bool:
        """Whether there is no GPU, so that numbers about speed mean nothing."""
        return self.device == "cpu"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing that nobody could know without a GPU."""

    name: str
    expected: str
    """The answer that is right, in words."""
    seconds: float
    """That it may take on a GPU; with less left it is not asked."""
    ask: Callable[[Place], Answer]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A run of ``train.py`` that came to its end."""

    folder: Path
    rows: list[dict[str, float]]
    """Its metrics, by iteration."""
    peaks: dict[str, float]
    """Memory, see :class:`~tests.gpu.peaks.Peaks`."""
    summary: dict[str, Any]

    def phases(self) -> dict[str, float]:
        """Mean seconds by phase, without the first iteration, which warms up."""
        later = self.rows[1:]
        names = sorted({name for row in later for name in row if name.startswith("time/")})
        return {name: mean(row[name] for row in later if name in row) for name in names}


def train(place: Place, name: str, *overrides: str) -> Ran:
    """Run ``train.py`` on the device.

    Raises:
        RuntimeError: it failed, with what it said last.
    """
    folder = place.folder / name
    peaks = place.folder / f"{name}-peaks.json"
    command = [
        *(sys.executable, str(ROOT / "train.py"), f"output_dir={folder}"),
        *(f"trainer.accelerator={place.device}", "trainer.devices=1"),
        *("+callbacks.peaks._target_=tests.gpu.peaks.Peaks", f"+callbacks.peaks.path={peaks}"),
        *overrides,
    ]
    called(place, command)
    summary = json.loads((folder / "summary.json").read_text())
    return Ran(folder=folder, rows=metrics(folder), peaks=json.loads(peaks.read_text()), summary=summary)


def metrics(folder: Path) -> list[dict[str, float]]:
    """Of a run, by iteration."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def called(place: Place, command: list[str]) -> str:
    """Run a program from the root of the clone within the time that is left; what it printed.

    Raises:
        RuntimeError: it failed or was too slow, with what it said last.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "sandbox")])
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=max(1.0, place.deadline()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took longer than the time that was left: {' '.join(command)}") from error
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout
