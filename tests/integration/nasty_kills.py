"""A program: runs are killed at chosen moments, resumed, and compared with the run that was never killed.

python nasty_kills.py OUT; prints one line per moment: its name and where the resumed run differs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench import kill_and_resume  # first, because it sets the number of threads
from pipo.callbacks.export import ModelExport
from pipo.callbacks.samples import SampleLog
from pipo.runs import checkpoints
from pipo.runs.metric_files import MetricsFileLogger

ARGUMENTS = [*kill_and_resume.SMALL, "iterations=4", "evaluation.problems=2", "recipe.responses=16"]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: Any, name: str, number: int, instead: Callable[..., None]) -> Callable[[], None]:
    """Arrange that the ``number``-th call of a function does something else, and dies."""

    def arrange() -> None:
        original, calls = getattr(owner, name), []

        def replaced(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == number:
                instead(*arguments, **options)
                die()
            return original(*arguments, **options)

        setattr(owner, name, replaced)

    return arrange


def half_a_state(state: Any, file: Any) -> None:
    file.write(b"half of a checkpoint")


def half_a_row(logger: MetricsFileLogger, *_: Any) -> None:
    with logger.jsonl.open("a") as file:
        file.write('{"iteration": 3, "train/')
        file.flush()


def half_a_sample(log: SampleLog, *_: Any) -> None:
    with log.path.open("ab") as file:
        file.write('{"iteration": 3, "response": "é'.encode()[:-1])
        file.flush()


def nothing(*arguments: Any, **options: Any) -> None:
    """Die before it."""


def moments() -> dict[str, Callable[[], None]]:
    """Checkpoints are due after 2 and 4 iterations, and after 3 if the curve is at its highest there."""
    import torch

    return {
        "inside the first checkpoint's write": at_call(torch, "save", 1, half_a_state),
        "inside a later checkpoint's write": at_call(torch, "save", 2, half_a_state),
        "written, not named": at_call(checkpoints, "commit", 2, nothing),
        "named, older ones not deleted": at_call(checkpoints, "prune", 2, nothing),
        "inside a row of metrics": at_call(MetricsFileLogger, "log_row", 4, half_a_row),
        "inside a sample": at_call(SampleLog, "_rows", 4, half_a_sample),
        "before the model is exported": at_call(ModelExport, "on_train_end", 1, nothing),
    }


def main(out: Path) -> None:
    """Kill at every moment in turn."""
    whole = out / "whole"
    (code,) = kill_and_resume.Run([*ARGUMENTS, f"output_dir={whole}"], 1, out / "whole.log").wait()
    assert code == 0, (out / "whole.log").read_text()
    for number, (name, arrange) in enumerate(moments().items()):
        folder, log = out / f"run{number}", out / f"run{number}.log"
        run = kill_and_resume.Run([*ARGUMENTS, f"output_dir={folder}"], 1, log, prepare=arrange)
        (killed,) = run.wait()
        (resumed,) = kill_and_resume.Run([f"resume={folder}"], 1, log).wait()
        problems = [f"ended with {killed}, not by the kill"] if killed != -signal.SIGKILL else []
        problems += list(kill_and_resume.compare(folder, whole)) if resumed == 0 else [log.read_text()]
        print(f"{name}: {problems}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
