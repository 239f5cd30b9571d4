r"""Count problems that are solved by copying a formula of the question into the box.

Every formula of a question, every line of it and every side of a relation is boxed as it stands and graded:
once by value alone, once with the question, so that an answer must be in final form. Problems whose reference
itself stands in the question are counted apart. Reads ``math500.jsonl`` (field ``answer``) and
``math_train.jsonl`` (the last box of ``solution``). Usage::

    python bench/copy_questions.py <folder with the two files> [--workers 2] [--json copies.json]
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from pipo.graders.answer_lists import same_text
from pipo.graders.math import MathGrader, last_boxed
from pipo.graders.typesetting import tidy

CPU_S, WALL_S = 10.0, 120.0
FILES = ("math500", "math_train")

_DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
_FORMULA = re.compile(
    r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]"
    r"|\\begin\{(?:align|equation|gather|eqnarray)\*?\}(.+?)\\end\{(?:align|equation|gather|eqnarray)\*?\}",
    re.DOTALL,
)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{(?:align|aligned|equation|gather|gathered|eqnarray|cases)\*?\}")
_LINE = re.compile(r"\\\\|\\q?quad\b|,\s")
_SIGN = re.compile(r"=|[<>]|\\(?:leq?|geq?|lt|gt|neq?|equiv|approx|to|mapsto|in)(?![A-Za-z])")


def copies(question: str) -> list[str]:
    """What may be copied: formulas, their lines, and the sides of these."""
    found: list[str] = []
    for match in _FORMULA.finditer(_DRAWING.sub(" ", question)):
        whole = next(group for group in match.groups() if group is not None)
        parts = [whole, _ENVIRONMENT.sub(" ", whole)]
        parts += _LINE.split(parts[-1])
        parts += [side for part in parts[1:] for side in _SIGN.split(part)]
        found += [part.replace("&", " ").strip(" \n.,;:?") for part in parts]
        found += [part.strip() for part in parts[:1]]
    return [text for text in dict.fromkeys(found) if text]


def experiment(file: Path, grader: MathGrader) -> dict[str, Any]:
    """The problems of a file that a copy solves, by value alone and with the question."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    tried: list[tuple[int, str, str, str]] = []
    for number, row in enumerate(rows):
        reference: str = row["answer"] if "answer" in row else last_boxed(row["solution"]) or ""
        tried += [(number, copy, reference, row["problem"]) for copy in copies(row["problem"])]
    pairs = [(f"\\boxed{{{copy}}}", reference) for _, copy, reference, _ in tried]
    rewards = zip(grader.grade_batch(pairs), grader.grade_batch(pairs, [q for *_, q in tried]), strict=True)
    graded = list(zip(tried, rewards, strict=True))
    # Whoever writes the reference itself is right, wherever it stands.
    coincidences = {t[0] for t, (_, form) in graded if form.score and same_text(tidy(t[1]), tidy(t[2]))}
    copied = [(t, rewards) for t, rewards in graded if not same_text(tidy(t[1]), tidy(t[2]))]
    return {
        "file": file.name,
        "problems": len(rows),
        "copies": len(tried),
        "errors": sum(reward.error is not None for _, both in graded for reward in both),
        "solved_by_value_alone": sorted({t[0] for t, (value, _) in copied if value.score}),
        "solved_in_final_form": sorted({t[0] for t, (_, form) in copied if form.score}),
        "the_reference_itself": sorted(coincidences),
        "by_value": [list(t[:3]) for t, (value, _) in copied if value.score],
        "remaining": [list(t[:3]) for t, (_, form) in copied if form.score],
    }


def main() -> None:
    """Print one table and the remaining cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds math500.jsonl and math_train.jsonl")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for all that was found")
    options = parser.parse_args()
    files = [options.folder / f"{name}.jsonl" for name in FILES]
    if missing := [str(file) for file in files if not file.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    grader = MathGrader(workers=options.workers, cpu_s=CPU_S, wall_s=WALL_S)
    found = [experiment(file, grader) for file in files]
    grader.close()
    for one in found:
        before, after = len(one["solved_by_value_alone"]), len(one["solved_in_final_form"])
        print(f"{one['file']}: {one['copies']} copies of {one['problems']} problems, errors {one['errors']}")
        print(f"  solved, value alone        {before} ({100 * before / one['problems']:.1f} %)")
        print(f"  solved, in final form      {after} ({100 * after / one['problems']:.1f} %)")
        print(f"  the reference itself       {len(one['the_reference_itself'])}")
        for row, copy, reference in one["remaining"]:
            print(f"    row {row}: {copy}    for    {reference}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
