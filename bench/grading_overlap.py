"""Programs graded while sampling goes on against grading at the end: the same batch both ways, in turn.

    python bench/grading_overlap.py [--rounds 5] [--prompts 16] [--rows 8] [--work 10000] [--sleep 0.0]

The embedded model samples on one thread, ``--rows`` responses at a time, so that sampling takes a while as it
does with a larger model. A response stands for a program that loops ``--work`` times in each of its tests,
and sleeps, which keeps no core busy; its text decides whether it is right. Seconds by the clock: sampling,
waiting for verdicts after it, and both; and the processor time of the thread that samples, which shows what
handing over and the graders' threads take from it. Each round is checked to give the same verdicts both ways.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench import ruler
from pipo.graders.code import CodeGrader
from pipo.graders.code_tests import StdinTests
from pipo.lm.policy import load_policy
from pipo.lm.spec import embedded_model
from pipo.rollout.graded import Graded, sample_and_grade
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from pipo.rollout.options import SamplingParams
from pipo.tasks.code import CodeExample, CodeTask
from pipo.tasks.prompts import Decode
from pipo.tasks.rows import Row

GROUP, TOKENS, TESTS = 8, 40, 2
SIDES = ("at the end", "meanwhile")
COLUMNS = ("sampling", "waiting", "both", "cpu of the sampler")


class Programs(CodeTask):
    """A program for each response, right where the sum of its token numbers is even."""

    name, version, template = "programs", "1", "programs/1"

    def __init__(self, grader: CodeGrader) -> None:
        self._grader = grader

    def make_example(self, split: str, number: int, row: Row) -> CodeExample:
        """There are no rows."""
        raise NotImplementedError


class AtTheEnd(LocalEngine):
    """Hands nothing over early."""

    def generate(self, prompts, group_size, sampling, seed, on_finished=None, **_):
        """As the local engine."""
        return super().generate(prompts, group_size, sampling, seed)


def decoder(work: int, sleep_s: float) -> Decode:
    """Token ids to a program that works for a while."""

    def decode(ids: Sequence[int], prompt: Sequence[int]) -> str:
        answer = "sum(map(int, input().split()))" if sum(ids) % 2 == 0 else "0"
        waits = f"import time\ntime.sleep({sleep_s})\n" if sleep_s else ""
        return f"```python\n{waits}for i in range({work}): pass\nprint({answer})\n```"

    return decode


def one_round(
    engine: LocalEngine, task: Programs, prompts: int, decode: Decode, seed: int
) -> tuple[Graded, dict[str, float]]:
    """A batch, and what it took."""
    tests = StdinTests(
        inputs=tuple(f"{n} {n + 1}\n" for n in range(TESTS)),
        outputs=tuple(f"{2 * n + 1}\n" for n in range(TESTS)),
    )
    seconds: dict[str, float] = {}

    @contextmanager
    def timer(name: str) -> Iterator[None]:
        start, used = time.perf_counter(), time.thread_time()
        yield
        seconds["sampling" if name == "generate" else "waiting"] = time.perf_counter() - start
        if name == "generate":
            seconds["cpu of the sampler"] = time.thread_time() - used

    graded = sample_and_grade(
        engine,
        task,
        [
            CodeExample(uid=f"programs/{number}", question="", answer="", tests=tests)
            for number in range(prompts)
        ],
        [(3 + number % 10, 4 + number % 7, 13) for number in range(prompts)],
        group_size=GROUP,
        sampling=SamplingParams(
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            max_response_tokens=TOKENS,
            stop_token_ids=frozenset({1}),
        ),
        seed=seed,
        decode=decode,
        encode_reply=lambda messages, last: (),
        timer=timer,
    )
    return graded, {**seconds, "both": seconds["sampling"] + seconds["waiting"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=16, help="with eight responses each")
    parser.add_argument("--rows", type=int, default=8, help="responses sampled at a time")
    parser.add_argument("--work", type=int, default=10_000, help="turns of a program's loop in each test")
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds that each test sleeps")
    parser.add_argument("--workers", type=int, default=None, help="programs at a time; all cores")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_policy(embedded_model("tiny"), "float32")
    config = LocalEngineConfig(max_rows=options.rows, compact_below=0.75)
    grader = CodeGrader(
        reward="all_pass",
        workers=options.workers,
        timeout_s=10.0,
        total_s=120.0,
        max_timeouts=2,
        cpu_s=12,
        memory_mb=1024,
        output_kb=4096,
        float_tolerance=0.0,
        batch_s=3600.0,
    )
    task = Programs(grader)
    engines = {SIDES[0]: AtTheEnd(policy, config), SIDES[1]: LocalEngine(policy, config)}
    measured: dict[str, dict[str, list[float]]] = {side: {c: [] for c in COLUMNS} for side in SIDES}
    decode = decoder(options.work, options.sleep)
    one_round(engines[SIDES[0]], task, 1, decoder(10, 0.0), 0)  # what is done once
    for number in range(options.rounds):
        found = {}
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            found[side], seconds = one_round(engines[side], task, options.prompts, decode, number)
            for name, value in seconds.items():
                measured[side][name].append(value)
        assert found[SIDES[0]].verdicts == found[SIDES[1]].verdicts
    task.close()
    table = Table("graded", *COLUMNS, title=f"seconds, {len(os.sched_getaffinity(0))} cores")
    spreads = {
        side: {column: ruler.Spread.of(values) for column, values in columns.items()}
        for side, columns in measured.items()
    }
    for side in SIDES:
        table.add_row(side, *(spreads[side][column].show(2) for column in COLUMNS))
    Console(width=110).print(table)
    if options.out:
        ruler.write(
            options.out, {f"{side}, {c}": s for side, columns in spreads.items() for c, s in columns.items()}
        )


if __name__ == "__main__":
    main()
