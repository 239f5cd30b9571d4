"""``python -m pipo``: what there is to run, and ``python -m pipo NAME ...`` runs it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = {
    "train": "train a model: python train.py [group=option] [key=value]",
    "eval": "score a model, compare two scores, grade responses: python eval.py model=...",
    "report": "the page about a run, again: python -m pipo.report RUN_FOLDER",
    "plot": "figures of one run or many: python -m pipo.plot FOLDER...",
    "study": "the paper's tables in small: python -m pipo.study NAME",
    "doctor": "what this machine offers: python -m pipo.doctor",
}


def main() -> None:
    """List the programs, or become one of them."""
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name not in PROGRAMS:
        known = "\n".join(f"  {each:<7} {what}" for each, what in PROGRAMS.items())
        if name in (None, "-h", "--help"):
            print(f"python -m pipo NAME ... runs one of\n{known}")
            return
        print(f"error: {name}: no such program; there are {', '.join(PROGRAMS)}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    script = ROOT / f"{name}.py"
    if script.is_file():
        # Other processes of the run, and the jobs of a sweep, are started by this path.
        sys.argv[0] = str(script)
        runpy.run_path(str(script), run_name="__main__")
    else:
        runpy.run_module(f"pipo.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
