r"""Answers per processor second of the mathematics grader, beside plain math-verify.

Answers to the problems of the five benchmarks that ``benchmark=math`` holds out: numbers, formulas, lists,
intervals, quantities with units. A third of the answers are the problem's own, written differently where that
is easy; a third another problem's; a third perturbed; the same answer to the same problem only once. A row
apart has hard ones: nested powers, wrong lists, long sums. The grader gets them with their questions, as
tasks do, and grades them on one worker; math-verify gets them as its users call it, one after another in this
process. Both in turn; processor time is that of all processes, the start of the worker aside. Usage::

    python bench/math_grader.py <folder with math500.jsonl, ...> [--answers 1000] [--rounds 5] [--out FILE]
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import ruler
from pipo.graders.math import MathGrader, quick_verdict
from pipo.graders.typesetting import tidy
from pipo.records.problems import Reward

CPU_S, WALL_S = 5.0, 300.0
BENCHMARKS = ("math500", "aime25", "amc23", "minervamath", "olympiadbench")


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


def answers(rows: Sequence[tuple[str, str]], count: int, *, difficult: bool) -> list[tuple[str, str, str]]:
    """Responses with reference and question, each once: the grader would read a second one for nothing."""
    rng = random.Random(0)
    references = [reference for reference, _ in rows]
    found: list[tuple[str, str, str]] = []
    for i in range(count):
        reference, question = rows[i % len(rows)]
        plain = (
            lambda r=reference: rewritten(r),
            lambda: rng.choice(references),
            lambda r=reference: perturbed(r, rng),
        )
        answer = hard(reference, rng) if difficult else rng.choice(plain)()
        found.append((f"so \\boxed{{{answer}}}", reference, question))
    return list(dict.fromkeys(found))


def by_grader(
    pairs: Sequence[tuple[str, str]], questions: Sequence[str] | None, workers: int
) -> tuple[list[Reward], float, float]:
    """The verdicts, and the wall-clock and processor seconds they took."""
    took: list[float] = []
    rewards: list[Reward] = []
    for job in ([], pairs):  # the first time only to learn what the start costs
        tidy.cache_clear()  # no way of grading may profit from what the one before has read
        begun = ruler.family_cpu_seconds()
        grader = MathGrader(workers=workers, cpu_s=CPU_S, wall_s=WALL_S)
        grader.grade_batch([("\\boxed{x+y}", f"y+x+{i}") for i in range(workers)])  # start them
        start = time.perf_counter()
        rewards = grader.grade_batch(job, questions if job else None)
        total = time.perf_counter() - start
        grader.close()
        took += [ruler.family_cpu_seconds() - begun, total]
    return rewards, took[3], took[2] - took[0]


def by_math_verify(pairs: Sequence[tuple[str, str]]) -> tuple[int, float, float]:
    """How many answers math-verify takes for right, and the wall-clock and processor seconds it took."""
    from math_verify import parse, verify

    verify(parse("$x+y$"), parse("$y+x$"))  # loads the grammar
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it reports each answer that takes too long
    start, begun = time.perf_counter(), ruler.family_cpu_seconds()
    right = sum(verify(parse(f"${reference}$"), parse(response)) for response, reference in pairs)
    return right, time.perf_counter() - start, ruler.family_cpu_seconds() - begun


def read_rows(folder: Path, benchmark: str) -> list[tuple[str, str]]:
    """References with their questions; of several answers to a problem, a list."""
    file = folder / f"{benchmark}.jsonl"
    if not file.is_file():
        raise SystemExit(f"{file}: no such file")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found: list[tuple[str, str]] = []
    for row in rows:
        answer = row.get("final_answer", row.get("answer"))
        reference = ", ".join(map(str, answer)) if isinstance(answer, list) else str(answer)
        found.append((reference, row.get("problem") or row["question"]))
    return found


def measure(tried: Sequence[tuple[str, str, str]]) -> dict[str, float]:
    """Answers per processor second on each side, and how many are taken for right, once."""
    pairs, questions = [(response, reference) for response, reference, _ in tried], [q for *_, q in tried]
    rewards, _, ours = by_grader(pairs, questions, workers=1)
    right, _, theirs = by_math_verify(pairs)
    return {
        "per CPU second": len(tried) / ours,
        "math-verify": len(tried) / theirs,
        "ratio": theirs / ours,
        "right": sum(reward.score for reward in rewards),
        "right by math-verify": float(right),
        "errors": float(sum(reward.error is not None for reward in rewards)),
    }


def main() -> None:
    """Print a table, and how long single answers take."""
    parser = ruler.parser(__doc__)
    parser.add_argument("folder", type=Path, help="holds the five files")
    parser.add_argument("--answers", type=int, default=1000, help="to problems of each file")
    options = parser.parse_args()
    rows = {name: read_rows(options.folder, name) for name in BENCHMARKS}
    loads = {name: answers(rows[name], options.answers, difficult=False) for name in BENCHMARKS}
    loads["hard answers"] = answers(rows[BENCHMARKS[0]], options.answers // 5, difficult=True)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in loads}
    for _ in range(options.rounds):
        for name, tried in loads.items():
            for figure, value in measure(tried).items():
                found[name].setdefault(figure, []).append(value)
    figures = {
        name: {figure: ruler.Spread.of(values) for figure, values in row.items()}
        for name, row in found.items()
    }
    headings = list(next(iter(figures.values())))
    title = f"answers in each set, {options.rounds} rounds: median (range)"
    table = Table("", *headings, title=title)
    for name, row in figures.items():
        table.add_row(
            f"{name}, {len(loads[name])}",
            *(row[heading].show(1 if heading == "ratio" else 0) for heading in headings),
        )
    Console(width=160).print(table)
    for name, tried in loads.items():
        settled = [quick_verdict(response[10:-1], reference) is not None for response, reference, _ in tried]
        p50, p99, most = np.percentile(one_by_one(tried), [50, 99, 100])
        times = f"one by one p50 {p50:.2f} ms, p99 {p99:.0f} ms, max {most:.0f} ms"
        print(f"{name:<14} settled by writing {100 * np.mean(settled):.0f} %, {times}")
    ruler.write(options.out, figures)


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
