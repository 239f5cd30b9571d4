"""First look at a GPU, in at most ten minutes: ``python -m tests.gpu.first_look`` in the root of the clone.

It asks what could not be known without a GPU, prints each answer beside the expected one, and leaves one file
to send back. ``--device cpu`` rehearses it: the same questions on small sizes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from tests.gpu.look import Place, Question, Skipped
from tests.gpu.questions import QUESTIONS


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask everything; returns the exit status, 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.first_look", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--out", type=Path, default=Path("first_look.md"), help="the file to send back")
    parser.add_argument("--seconds", type=float, default=600, help="in all; what does not fit is not asked")
    parser.add_argument("--only", nargs="*", help="names of questions; all without")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; python -m pipo doctor says why, --device cpu rehearses")
    names = [each.name for each in QUESTIONS]
    for name in options.only or []:
        if name not in names:
            parser.error(f"--only {name}: no such question; there are {', '.join(names)}")
    asked = [each for each in QUESTIONS if not options.only or each.name in options.only]
    end = perf_counter() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device=options.device, folder=Path(folder), deadline=lambda: end - perf_counter())
        answers = list(answered(asked, place, print))
    options.out.write_text(page(answers, options.device), encoding="utf-8")
    counts = {state: sum(each["state"] == state for each in answers) for state in ("PASS", "FAIL", "SKIP")}
    print(f"\n{', '.join(f'{count} {state}' for state, count in counts.items())}; send back {options.out}")
    return 1 if counts["FAIL"] else 0


def answered(
    questions: Sequence[Question], place: Place, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Ask one after the other; whatever goes wrong is an answer too."""
    for question in questions:
        start, left = perf_counter(), place.deadline()
        detail: dict[str, Any] = {}
        if left < question.seconds and not place.rehearsal:
            state, found = "SKIP", f"takes up to {question.seconds:.0f} s, and {max(0, left):.0f} s are left"
        else:
            try:
                answer = question.ask(place)
                state, found, detail = "PASS" if answer.good else "FAIL", answer.found, answer.values
            except Skipped as reason:
                state, found = "SKIP", str(reason)
            except Exception as error:
                lines = str(error).splitlines()
                state, found = "FAIL", f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
                detail = {"trace": traceback.format_exc(limit=-8)}
        taken = perf_counter() - start
        say(f"{state}  {question.name} ({taken:.0f} s): {found}\n      expected: {question.expected}")
        yield {
            "name": question.name,
            "state": state,
            "found": found,
            "expected": question.expected,
            "seconds": taken,
            "values": detail,
        }


def page(answers: Sequence[dict[str, Any]], device: str) -> str:
    """The file to send back: a table to read, and everything as JSON below it."""
    cells = [
        [each["state"], each["name"], each["found"].replace("|", "/"), each["expected"]] for each in answers
    ]
    table = [["", "question", "found", "expected"], ["---"] * 4, *cells]
    lines = [f"| {' | '.join(row)} |" for row in table]
    gpu = {}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        gpu = {name: getattr(properties, name) for name in ("name", "major", "minor", "total_memory")}
    record = {"device": device, "gpu": gpu, "torch": torch.__version__, "answers": answers}
    whole = json.dumps(record, indent=1, default=str)
    return "\n".join(["# First look at a GPU", "", *lines, "", "```json", whole, "```", ""])


if __name__ == "__main__":
    raise SystemExit(main())
