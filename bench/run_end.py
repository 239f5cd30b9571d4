"""Seconds from a run's last iteration to the program's end, by product, and what a resume adds to a start.

Each round is a run of the default configuration and a resume of it that goes on for one iteration, in a
program each; processor seconds of one thread. ``the end`` is everything after the last iteration but the
scoring of held-out problems; the lines below it are its parts. ``start`` is all from the program's start to
the first iteration, scoring apart, and ``start, resume`` the same of a resume, imports included. Usage::

    python bench/run_end.py [--rounds 5] [--iterations 60] [--out run_end.json] [key=value ...]

Further ``key=value`` arguments are those of ``train.py``; ``evaluation.problems=16`` makes it quick.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

import pipo
from bench import ruler
from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.callbacks.results import RunResults

SCORING, REST = "held-out scoring", "what is left"
# How this program is called for one run.
ONE = "--one"


class Stamps(pl.Callback):
    """Takes the processor time of what every other callback does when training ends.

    Attributes:
        parts: name of a product or a callback -> seconds at the end.
        scored: seconds of the scoring before training.
        trains: when the first iteration began, since the program's start.
        last: when the last one ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, float] = {}
        self.scored: dict[str, float] = {}
        self.trains = self.last = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put a watch around everybody else's work."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunResults):  # its pages one by one
                callback.pages = {
                    name: timed(write, self.parts, name) for name, write in callback.pages.items()
                }
            elif callback is not self:
                name = type(callback).__name__
                if isinstance(callback, HeldOutEvaluation):
                    name = SCORING
                    callback.on_train_start = timed(callback.on_train_start, self.scored, name)
                callback.on_train_end = timed(callback.on_train_end, self.parts, name)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The first one ends the start."""
        self.trains = self.trains or time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The last one begins the end."""
        self.last = time.process_time()


def timed(action: Callable[..., Any], seconds: dict[str, float], name: str) -> Callable[..., Any]:
    """The action, which adds the processor time that it takes."""

    def call(*arguments: Any) -> Any:
        start = time.process_time()
        try:
            return action(*arguments)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - start

    return call


def one_run(out: str, words: list[str]) -> None:
    """A run in this process, and what it took, as JSON."""
    stamps = Stamps()
    pipo.train(*words, callbacks=[stamps])
    end = time.process_time() - stamps.last - stamps.parts.pop(SCORING, 0.0)
    figures = {
        "start": stamps.trains - stamps.scored.get(SCORING, 0.0),
        "the end": end,
        "parts": {**stamps.parts, REST: end - sum(stamps.parts.values())},
    }
    Path(out).write_text(json.dumps(figures), encoding="utf-8")


def measure(iterations: int, overrides: list[str]) -> dict[str, float]:
    """One round."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, found = Path(scratch) / "run", []
        last = f"iterations={iterations + 1}"
        runs = (
            [f"output_dir={folder}", f"iterations={iterations}", *overrides],
            [f"resume={folder}", last],
        )
        for words in runs:
            out = f"{scratch}/figures.json"
            ruler.run_program([sys.executable, __file__, ONE, out, *words])
            found.append(json.loads(Path(out).read_text(encoding="utf-8")))
    fresh, resumed = found
    starts = {"start": fresh["start"], "start, resume": resumed["start"]}
    return {"the end": fresh["the end"], **fresh["parts"], **starts}


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == [ONE]:
        one_run(sys.argv[2], sys.argv[3:])
        return
    parser = ruler.parser(__doc__)
    parser.add_argument("--iterations", type=int, default=60, help="of the run")
    options, overrides = parser.parse_known_args()
    rounds = [measure(options.iterations, overrides) for _ in range(options.rounds)]
    figures = {name: ruler.Spread.of([each[name] for each in rounds]) for name in rounds[0]}
    print(f"{options.rounds} rounds, CPU seconds, median (range)")
    for name, spread in figures.items():
        if spread.high >= 0.005:
            print(f"{name:20s} {spread.show(2)}")
    ruler.write(options.out, figures)


if __name__ == "__main__":
    main()
