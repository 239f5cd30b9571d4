"""Throughput and latency of the mathematics grader on answers to real problems, beside plain math-verify.

A quarter of the answers are the problem's own, written differently where that is easy; a quarter another
problem's; a quarter perturbed; a quarter hard: nested powers, wrong lists, long sums. They are graded with
their questions, by value alone, and by math-verify as its users call it, one after another in this process;
processor time is that of all processes, the start of the workers aside. Usage::

    python bench/math_grader.py <folder with math500.jsonl> [--answers 1000] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipo.graders.math import MathGrader, quick_verdict
from pipo.graders.typesetting import tidy
from pipo.records.problems import Reward

CPU_S, WALL_S = 5.0, 300.0


def rewritten(answer: str) -> str:
    """The same answer in another form."""
    return answer.replace("\\frac", "\\dfrac") if "\\frac" in answer else f"x = {answer}"


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


def answers(rows: Sequence[tuple[str, str]], count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Responses with reference and question."""
    rng = random.Random(seed)
    references = [reference for reference, _ in rows]
    found: list[tuple[str, str, str]] = []
    for i in range(count):
        reference, question = rows[i % len(rows)]
        makers = (
            lambda r=reference: rewritten(r),
            lambda: rng.choice(references),
            lambda r=reference: perturbed(r, rng),
            lambda r=reference: hard(r, rng),
        )
        found.append((f"so \\boxed{{{rng.choice(makers)()}}}", reference, question))
    return found


def processor_s() -> float:
    """Processor time of this process and of those it has ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def by_grader(
    pairs: Sequence[tuple[str, str]], questions: Sequence[str] | None, workers: int
) -> tuple[list[Reward], float, float]:
    """The verdicts, and the wall-clock and processor seconds they took."""
    took: list[float] = []
    rewards: list[Reward] = []
    for job in ([], pairs):  # the first time only to learn what the start costs
        tidy.cache_clear()  # no way of grading may profit from what the one before has read
        begun = processor_s()
        grader = MathGrader(workers=workers, cpu_s=CPU_S, wall_s=WALL_S)
        grader.grade_batch([("\\boxed{x+y}", f"y+x+{i}") for i in range(workers)])  # start them
        start = time.perf_counter()
        rewards = grader.grade_batch(job, questions if job else None)
        total = time.perf_counter() - start
        grader.close()
        took += [processor_s() - begun, total]
    return rewards, took[3], took[2] - took[0]


def by_math_verify(pairs: Sequence[tuple[str, str]]) -> tuple[int, float, float]:
    """How many answers math-verify takes for right, and the wall-clock and processor seconds it took."""
    from math_verify import parse, verify

    verify(parse("$x+y$"), parse("$y+x$"))  # loads the grammar
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it reports each answer that takes too long
    start, begun = time.perf_counter(), processor_s()
    right = sum(verify(parse(f"${reference}$"), parse(response)) for response, reference in pairs)
    return right, time.perf_counter() - start, processor_s() - begun


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
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    tried = answers([(row["answer"], row["problem"]) for row in rows], count)
    pairs, questions = [(response, reference) for response, reference, _ in tried], [q for *_, q in tried]
    table: list[tuple[str, float, float, float]] = []
    rewards, wall, processor = by_grader(pairs, questions, workers)
    table.append((f"with the question, {workers} workers", sum(r.score for r in rewards), wall, processor))
    values, wall, processor = by_grader(pairs, None, workers)
    table.append((f"value alone, {workers} workers", sum(r.score for r in values), wall, processor))
    table.append(("math-verify alone", *by_math_verify(pairs)))
    quick = np.mean([quick_verdict(p[0][10:-1], p[1]) is not None for p in pairs])
    p50, p99, most = np.percentile(one_by_one(tried), [50, 99, 100])
    errors = sum(r.error is not None for r in rewards)
    print(f"answers              {count}, errors {errors} (limit {CPU_S:g} s of processor time an answer)")
    print(f"settled by writing   {100 * quick:.0f} %")
    for name, right, wall, processor in table:
        speeds = f"{count / wall:.0f} answers/s, {count / processor:.0f} per CPU second"
        print(f"{name:<29} right {right:.0f}, {speeds}")
    print(f"one by one           p50 {p50:.2f} ms, p99 {p99:.0f} ms, max {most:.0f} ms")


def one_by_one(tried: Sequence[tuple[str, str, str]]) -> list[float]:
    """Milliseconds for each answer by itself."""
    grader = MathGrader(workers=1, cpu_s=CPU_S, wall_s=WALL_S)
    grader.grade("\\boxed{x+y}", "y+x+1")
    latencies: list[float] = []
    for response, reference, question in tried:
        begun = time.perf_counter()
        grader.grade(response, reference, question)
        latencies.append(1000 * (time.perf_counter() - begun))
    grader.close()
    return latencies


if __name__ == "__main__":
    main()
