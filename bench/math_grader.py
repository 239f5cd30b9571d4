"""Throughput and latency of the mathematics grader on answers to real problems.

A quarter of the answers are the problem's own, written differently where that is easy; a quarter another
problem's; a quarter perturbed; a quarter hard: nested powers, wrong lists, long sums. Usage::

    python bench/math_grader.py <folder with math500.jsonl> [--answers 1000] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipo.tasks.graders.math import MathGrader, quick_verdict

CPU_S, WALL_S = 5.0, 300.0


def rewritten(answer: str) -> str:
    """The same answer in another form."""
    return answer.replace("\\frac", "\\dfrac") if "\\frac" in answer else f"{answer} + 0"


def perturbed(answer: str, rng: random.Random) -> str:
    """A wrong answer of the same kind: one digit, or a summand, is another."""
    places = [i for i, c in enumerate(answer) if c.isdigit()]
    if not places:
        return f"{answer} + 1"
    place = rng.choice(places)
    return answer[:place] + str((int(answer[place]) + rng.randint(1, 8)) % 10) + answer[place + 1 :]


def hard(answer: str, rng: random.Random) -> str:
    """What costs time: much algebra, long lists, towers of powers (a hundredth)."""
    kind = rng.random()
    if kind < 0.01:
        return "9^{9^{9^{9}}}"
    if kind < 0.4:
        return " + ".join(f"\\frac{{{rng.randint(1, 99)}}}{{{rng.randint(2, 99)}}} x^{i}" for i in range(8))
    if kind < 0.7:
        return ", ".join(str(rng.randint(0, 99)) for _ in range(12))
    return f"\\sqrt{{{rng.randint(2, 99)}}} ({answer})"


def answers(references: Sequence[str], count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Pairs of response and reference."""
    rng = random.Random(seed)
    pairs: list[tuple[str, str]] = []
    for i in range(count):
        reference = references[i % len(references)]
        makers = (
            lambda r=reference: rewritten(r),
            lambda: rng.choice(references),
            lambda r=reference: perturbed(r, rng),
            lambda r=reference: hard(r, rng),
        )
        pairs.append((f"so \\boxed{{{rng.choice(makers)()}}}", reference))
    return pairs


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds math500.jsonl")
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    count, workers = options.answers, options.workers
    file = options.folder / "math500.jsonl"
    if not file.is_file():
        parser.error(f"{file}: no such file")
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = answers([json.loads(line)["answer"] for line in lines], count)
    grader = MathGrader(workers=workers, cpu_s=CPU_S, wall_s=WALL_S)
    grader.grade_batch([("\\boxed{x+y}", f"y+x+{i}") for i in range(workers)])  # start them
    start = time.perf_counter()
    rewards = grader.grade_batch(pairs)
    total = time.perf_counter() - start
    grader.close()
    single = MathGrader(workers=1, cpu_s=CPU_S, wall_s=WALL_S)
    single.grade("\\boxed{x+y}", "y+x+1")
    latencies = []
    for response, reference in pairs:
        begun = time.perf_counter()
        single.grade(response, reference)
        latencies.append(1000 * (time.perf_counter() - begun))
    single.close()
    quick = np.mean([quick_verdict(p[0][10:-1], p[1]) is not None for p in pairs])
    p50, p99 = np.percentile(latencies, [50, 99])
    print(f"answers              {count}, right {sum(r.score for r in rewards):.0f}")
    print(
        f"errors               {sum(r.error is not None for r in rewards)} "
        f"(limit {CPU_S:g} s of processor time an answer)"
    )
    print(f"settled by writing   {100 * quick:.0f} %")
    print(f"all, {workers} workers       {total:.1f} s, {count / total:.0f} answers/s")
    print(f"one by one           p50 {p50:.2f} ms, p99 {p99:.0f} ms, max {max(latencies):.0f} ms")


if __name__ == "__main__":
    main()
