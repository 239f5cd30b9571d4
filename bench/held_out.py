"""Processor time of scoring held-out problems as a run does before and after, beside sampling alone.

The same problems, samples, batches and seeds as in the run: ``sampling`` is what the engine takes for the
responses, ``scoring`` all that the callback does, with text, grading, votes, intervals and the record.
Usage::

    python bench/held_out.py [--rounds 5] [--profile] [--out held_out.json] [key=value ...]

``--profile`` prints what lies beside the engine, by function. Further ``key=value`` arguments are those of
``train.py``, such as ``evaluation.problems=64``.
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import lightning.pytorch as pl
import torch

from bench import ruler
from pipo import build
from pipo.callbacks.interrupt import GracefulStop
from pipo.config.cli import register_resolvers
from pipo.config.command_line import composed_job
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.run_parts import Parts, parts_of

SHOWN = 25


def counted(action: Callable[..., Any], seconds: list[float], profile: cProfile.Profile | None) -> Any:
    """The action, which notes its processor time, and is left out of a profile."""

    @wraps(action)
    def call(*arguments: Any, **named: Any) -> Any:
        if profile is not None:
            profile.disable()
        start = time.process_time()
        found = action(*arguments, **named)
        seconds.append(time.process_time() - start)
        if profile is not None:
            profile.enable()
        return found

    return call


def measure(parts: Parts, rounds: int, profile: cProfile.Profile | None) -> dict[str, Any]:
    """Seconds of each round."""
    module, trainer = parts.module, pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    module.configure_model()
    sampling: list[float] = []
    module.engine.generate = counted(module.engine.generate, sampling, profile)  # type: ignore[method-assign]
    found: dict[str, list[float]] = {"sampling": [], "scoring": [], "ratio": []}
    for _ in range(rounds + 1):
        evaluation = build.build_evaluation(parts.config, parts.setup, GracefulStop())
        sampling.clear()
        if profile is not None:
            profile.enable()
        scoring = ruler.cpu_seconds(lambda each=evaluation: each.on_train_start(trainer, module))
        if profile is not None:
            profile.disable()
        found["sampling"].append(sum(sampling))
        found["scoring"].append(scoring)
        found["ratio"].append(scoring / sum(sampling))
    # The first time loads what the others find.
    return {name: ruler.Spread.of(values[1:]) for name, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = ruler.parser(__doc__)
    parser.add_argument("--profile", action="store_true", help="print what lies beside the engine")
    options, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    profile = cProfile.Profile() if options.profile else None
    register_resolvers()
    with tempfile.TemporaryDirectory() as folder:
        config = read(composed_job([*overrides, f"output_dir={folder}"], "train"), TrainConfig)
        with parts_of(config) as parts:
            figures = measure(parts, options.rounds, profile)
    print(f"{options.rounds} rounds, CPU seconds, median (range)")
    for name, spread in figures.items():
        print(f"{name:10s} {spread.show()}")
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(SHOWN)
    ruler.write(options.out, figures)


if __name__ == "__main__":
    main()
