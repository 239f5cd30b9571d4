"""Kill a run at random moments, resume it, and compare it with the run that was never killed.

    python bench/kill_and_resume.py --kills 20 --processes 1
    python bench/kill_and_resume.py --kills 20 --processes 2 --victims 1 0   # one process of two at a time

Every run is ``train.py`` itself, in processes that are forked from this one: importing takes longer than the
run. SIGKILL comes at a uniformly random moment between the run's claim on its folder and its end. Compared
are all that the last checkpoint holds (weights, optimiser, schedule, window and previous batch of every
process, random numbers, loop counters), the exported model, metrics, samples and the summary; only
wall-clock times are left out. One difference in one bit is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One thread per process: the order of sums, and so the last bit, must not depend on the machine's load.
os.environ["OMP_NUM_THREADS"] = "1"
PROGRAM = Path(__file__).parents[1] / "train.py"
sys.path.insert(0, str(PROGRAM.parent))

import torch  # noqa: E402
from lightning.pytorch.utilities import rank_zero_only  # noqa: E402

import pipo.training  # noqa: E402, F401  (train.py imports it late; the forked processes have it already)
from pipo.runs.checkpoints import STATE, finished_checkpoints, iterations_of  # noqa: E402
from pipo.runs.run_log import read_metrics  # noqa: E402

torch.set_num_threads(1)
SMALL = [
    "recipe.responses=32",
    "recipe.mini_batch=16",
    "pipo.window=2",
    "evaluation.problems=4",
    "evaluation.samples=8",
    "curve.every=3",
    "checkpoint.every=2",
    "samples.every=1",
]
# Wall-clock time, and what is divided by it.
TIMED = ("time/", "train/tokens_per_second", "rollout/tokens_per_second")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of one kill."""

    after_s: float
    """Seconds between the claim on the folder and the kill."""
    logged: int
    """Iterations in the metrics file at that moment."""
    saved: int
    """Iterations of the newest checkpoint at that moment; 0 without any."""
    differences: tuple[str, ...]
    """Places in which the resumed run differs from the uninterrupted one."""


class Run:
    """``train.py`` in one or more processes.

    Args:
        arguments: its command line.
        processes: how many.
        log: file that their output is added to.
        prepare: called in each of them first.
    """

    def __init__(
        self, arguments: Sequence[str], processes: int, log: Path, prepare: Callable[[], None] | None = None
    ) -> None:
        port, self._prepare = _free_port(), prepare
        self.pids = [self._fork(list(arguments), rank, processes, port, log) for rank in range(processes)]

    def _fork(self, arguments: list[str], rank: int, processes: int, port: int, log: Path) -> int:
        pid = os.fork()
        if pid:
            return pid
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        if processes > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": processes}
            names |= {"LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({k: str(v) for k, v in names.items()} | {"TORCHELASTIC_RUN_ID": "kill"})
            rank_zero_only.rank = rank  # Lightning read the environment when it was imported
            strategy = {"strategy": "ddp", "devices": processes, "accelerator": "cpu"}
            if not any(argument.startswith("resume=") for argument in arguments):
                arguments += [f"trainer.{k}={v}" for k, v in strategy.items()]
        sys.argv = ["train.py", *arguments]
        code = 1
        try:
            if self._prepare is not None:
                self._prepare()
            runpy.run_path(str(PROGRAM), run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, limit_s: float = 300) -> list[int]:
        """Exit codes; what has not ended by itself in time is killed and counts as killed."""
        deadline, codes = time.monotonic() + limit_s, {}
        while len(codes) < len(self.pids):
            for pid in set(self.pids) - set(codes):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        return [codes[pid] for pid in self.pids]

    def kill(self, victims: Sequence[int]) -> None:
        """Kill processes by their rank."""
        for rank in victims:
            os.kill(self.pids[rank], signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def compare(resumed: Path, whole: Path) -> Iterator[str]:
    """Where two run folders differ."""
    mine, other = (finished_checkpoints(folder / "checkpoints") for folder in (resumed, whole))
    if [p.name for p in mine] != [p.name for p in other]:
        yield f"checkpoints {[p.name for p in mine]}"
        return
    states = [torch.load(paths[-1] / STATE, weights_only=True) for paths in (mine, other)]
    yield from _tree("state", *states)
    for name in ("metrics", "samples"):
        rows = [_timeless(read_metrics(folder / f"{name}.jsonl")) for folder in (resumed, whole)]
        if rows[0] != rows[1]:
            yield f"{name}.jsonl"
    tables = [(folder / "metrics.csv").read_text().count("\n") for folder in (resumed, whole)]
    if tables[0] != tables[1]:
        yield "metrics.csv"
    if (resumed / "model/model.safetensors").read_bytes() != (whole / "model/model.safetensors").read_bytes():
        yield "model"
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (resumed, whole)]
    if {**summaries[0], "seconds": 0} != {**summaries[1], "seconds": 0}:
        yield "summary.json"
    if left := [p.name for p in resumed.rglob(".*")]:
        yield f"left behind: {left}"


def _tree(where: str, mine: Any, other: Any) -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(other, dict):
        for key in sorted(set(mine) | set(other), key=str):
            if key == "seconds":
                continue
            if key not in mine or key not in other:
                yield f"{where}.{key}"
            else:
                yield from _tree(f"{where}.{key}", mine[key], other[key])
    elif isinstance(mine, list | tuple) and isinstance(other, list | tuple) and len(mine) == len(other):
        for index, (a, b) in enumerate(zip(mine, other, strict=True)):
            yield from _tree(f"{where}[{index}]", a, b)
    elif isinstance(mine, torch.Tensor) and isinstance(other, torch.Tensor):
        if mine.dtype != other.dtype or not torch.equal(mine, other):
            yield where
    elif mine != other:
        yield f"{where} ({mine} instead of {other})"


def _timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


def _try(arguments: list[str], options: argparse.Namespace, whole: Path, folder: Path, delay: float) -> Trial:
    """Start, kill, resume, compare."""
    log = folder.with_suffix(".log")
    run = Run([*arguments, f"output_dir={folder}"], options.processes, log)
    while not (folder / "config.yaml").exists():
        time.sleep(0.002)
    time.sleep(delay)
    run.kill(range(options.processes) if options.victims is None else options.victims)
    codes = run.wait(10)  # then the survivors are killed, as torchrun would
    metrics, saved = folder / "metrics.jsonl", finished_checkpoints(folder / "checkpoints")
    logged = len(read_metrics(metrics)) if metrics.exists() else 0
    newest = iterations_of(saved[-1]) if saved else 0
    problems: list[str] = []
    if any(code == 0 for code in codes):
        return Trial(after_s=delay, logged=logged, saved=newest, differences=("ended before the kill",))
    codes = Run([f"resume={folder}"], options.processes, log).wait()
    if any(codes) and not (folder / "summary.json").exists():
        problems.append(f"the resumed run ended with {codes}, see {log}")
    else:
        problems += compare(folder, whole)
    return Trial(after_s=delay, logged=logged, saved=newest, differences=tuple(problems))


def main() -> int:
    """Print the table; 0 if every resumed run was the uninterrupted one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=9)
    parser.add_argument("--victims", type=int, nargs="+", default=None, help="ranks to kill; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, default=None, help="folder for all runs; default a temporary one"
    )
    parser.add_argument("arguments", nargs="*", help="further key=value for train.py")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [*SMALL, f"iterations={options.iterations}", *options.arguments]
    whole = folder / "whole"
    started = time.monotonic()
    codes = Run([*arguments, f"output_dir={whole}"], options.processes, folder / "whole.log").wait()
    if any(codes):
        print(f"the uninterrupted run ended with {codes}, see {folder / 'whole.log'}", file=sys.stderr)
        return 1
    length = time.monotonic() - started
    print(f"uninterrupted: {options.iterations} iterations, {options.processes} process(es), {length:.1f} s")
    print(f"{'kill':>4} {'after s':>8} {'logged':>7} {'saved':>6}  resumed run")
    chance, done, equal = random.Random(options.seed), 0, 0
    while done < options.kills:
        trial = _try(arguments, options, whole, folder / f"kill{done:03d}", chance.uniform(0, length))
        if trial.differences == ("ended before the kill",):
            shutil.rmtree(folder / f"kill{done:03d}")
            continue
        done += 1
        equal += not trial.differences
        verdict = "; ".join(trial.differences[:4]) or "equal bit for bit"
        print(f"{done:>4} {trial.after_s:>8.2f} {trial.logged:>7} {trial.saved:>6}  {verdict}", flush=True)
    print(f"{equal} of {done} resumed runs equal the uninterrupted run bit for bit")
    if options.keep is None and equal == done:
        shutil.rmtree(folder)
    return int(equal != done)


if __name__ == "__main__":
    sys.exit(main())
