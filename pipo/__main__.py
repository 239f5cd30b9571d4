"""``pipo`` or ``python -m pipo``: what there is to run, and ``pipo NAME ...`` runs it."""

from __future__ import annotations

import difflib
import os
import runpy
import sys

from pipo.home import HOME

# Name -> module, or script beside the configuration -> what it does.
PROGRAMS = {
    "train": ("train.py", "train a model: python train.py [group=option] [key=value]"),
    "eval": ("eval.py", "evaluate a model, compare two results, grade responses: python eval.py model=..."),
    "plan": (
        "pipo.plan",
        "what a run takes of GPUs, and whether it fits: python -m pipo plan gpus=8xH100-80 [key=value]",
    ),
    "report": ("pipo.analysis.report", "the page about a run, again: python -m pipo report RUN_FOLDER"),
    "samples": (
        "pipo.analysis.samples",
        "prompts, responses, rewards, what changed, by keyboard: python -m pipo samples RUN_FOLDER",
    ),
    "push": (
        "pipo.analysis.card",
        "a run's model with its card to the Hugging Face hub: python -m pipo push RUN_FOLDER org/name",
    ),
    "plot": ("pipo.analysis.plotting", "figures of one run or many: python -m pipo plot FOLDER..."),
    "study": ("pipo.analysis.study", "the paper's tables in small: python -m pipo study NAME"),
    "feedback": (
        "pipo.analysis.feedback",
        "would PIPO's feedback have helped a run, anyone's: python -m pipo feedback FILE_OR_FOLDER...",
    ),
    "dashboard": ("pipo.runs.wandb_workspace", "a W&B dashboard for a project: python -m pipo dashboard"),
    "doctor": ("pipo.doctor", "what this machine offers, and what to mend: python -m pipo doctor"),
    "tiny": ("pipo.lm.tiny", "make the embedded model anew: python -m pipo tiny"),
    "tiny_tools": (
        "pipo.lm.tiny_tools",
        "make the one that calls a calculator: python -m pipo tiny_tools",
    ),
}
_COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


def main() -> None:
    """List the programs, or become one of them."""
    if sys.argv[1:2] and sys.argv[1] in _COMPLETION:
        _complete(sys.argv[2:])
        return
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name not in PROGRAMS:
        known = "\n".join(f"  {each:<10} {what}" for each, (_, what) in PROGRAMS.items())
        if name in (None, "-h", "--help"):
            print(f"pipo NAME ... or python -m pipo NAME ... runs one of\n{known}")
            return
        near = difflib.get_close_matches(name, PROGRAMS, n=1)
        said = f"did you mean {near[0]}? There" if near else "there"
        print(f"error: {name}: no such program; {said} are {', '.join(PROGRAMS)}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    _become(PROGRAMS[name][0])


def _become(program: str) -> None:
    if program.endswith(".py"):
        # Other processes of the run, and the jobs of a sweep, are started by this path.
        sys.argv[0] = str(HOME / program)
        runpy.run_path(str(HOME / program), run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def _complete(words: list[str]) -> None:
    """Tab completion by Hydra, for the command ``pipo``: ``eval "$(pipo -sc install=bash)"``."""
    act, _, shell = (words[0] if words else "").partition("=")
    if act in ("install", "uninstall"):
        from hydra._internal.core_plugins.bash_completion import BashCompletion
        from hydra._internal.core_plugins.fish_completion import FishCompletion
        from hydra._internal.core_plugins.zsh_completion import ZshCompletion

        kinds = {"bash": BashCompletion, "fish": FishCompletion, "zsh": ZshCompletion}
        if shell not in kinds:
            print(f"error: {act}={shell}: there is completion for {', '.join(kinds)}", file=sys.stderr)
            sys.exit(2)
        sys.argv[0] = "pipo"  # Hydra completes the program of this name
        getattr(kinds[shell](config_loader=None), act)()  # type: ignore[arg-type]
        return
    # A query. Hydra knows programs of one word, so the second one is taken out of the line.
    line = os.environ.get("COMP_LINE", "")
    typed = line.split()
    if len(typed) < 3 and not (len(typed) == 2 and line.endswith(" ")):
        print(" ".join(PROGRAMS))
        return
    if not PROGRAMS.get(typed[1], ("",))[0].endswith(".py"):
        return
    os.environ["COMP_LINE"] = line.replace(f" {typed[1]}", "", 1)
    _become(PROGRAMS[typed[1]][0])


if __name__ == "__main__":
    main()
