"""``python -m pipo``: what there is to run, and ``python -m pipo NAME ...`` runs it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Name -> module, or script beside the package -> what it does.
PROGRAMS = {
    "train": ("train.py", "train a model: python train.py [group=option] [key=value]"),
    "eval": ("eval.py", "evaluate a model, compare two results, grade responses: python eval.py model=..."),
    "report": ("pipo.analysis.report", "the page about a run, again: python -m pipo report RUN_FOLDER"),
    "plot": ("pipo.analysis.plotting", "figures of one run or many: python -m pipo plot FOLDER..."),
    "study": ("pipo.analysis.study", "the paper's tables in small: python -m pipo study NAME"),
    "feedback": (
        "pipo.analysis.feedback",
        "would PIPO's feedback have helped a run, anyone's: python -m pipo feedback FILE_OR_FOLDER...",
    ),
    "dashboard": ("pipo.runs.wandb_workspace", "a W&B dashboard for a project: python -m pipo dashboard"),
    "doctor": ("pipo.doctor", "what this machine offers, and what to mend: python -m pipo doctor"),
    "tiny": ("pipo.lm.tiny", "make the embedded model anew: python -m pipo tiny"),
}


def main() -> None:
    """List the programs, or become one of them."""
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name not in PROGRAMS:
        known = "\n".join(f"  {each:<10} {what}" for each, (_, what) in PROGRAMS.items())
        if name in (None, "-h", "--help"):
            print(f"python -m pipo NAME ... runs one of\n{known}")
            return
        print(f"error: {name}: no such program; there are {', '.join(PROGRAMS)}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    program = PROGRAMS[name][0]
    if program.endswith(".py"):
        # Other processes of the run, and the jobs of a sweep, are started by this path.
        sys.argv[0] = str(ROOT / program)
        runpy.run_path(str(ROOT / program), run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
