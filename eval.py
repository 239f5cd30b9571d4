"""Evaluate: ``python eval.py model=<what> benchmark=<which> [key=value] ...``.

Examples::

    python eval.py                                          # the embedded model as it came
    python eval.py model=outputs/2026-01-31/12-00-00        # a run folder
    python eval.py model=outputs/2026-01-31/12-00-00/checkpoints/iteration_000100.ckpt
    python eval.py model=./some/hugging-face/folder evaluation.samples=32
    python eval.py benchmark=arithmetic_levels preview=3    # show prompts, generate nothing
    python eval.py benchmark=math500                        # any part of a benchmark, and any task, by itself
    python eval.py task=near_sums                           # a task of your own
    python eval.py resume=outputs/eval/2026-01-31/12-00-00  # go on with one that was stopped
    python eval.py compare FIRST SECOND                     # two such folders, problem by problem

Grade what is already there, without a model::

    python eval.py grade task=math samples=cases.jsonl      # rows of the task with a field response each
    python eval.py grade task=math samples=outputs/eval/2026-01-31/12-00-00/samples.jsonl output_dir=again
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipo.config.checked_run import run_program
from pipo.config.cli import exit_code, register_resolvers
from pipo.config.command_line import check_command_line, expand_model, expand_open, expand_paths, expand_task
from pipo.config.single_benchmarks import register_single_benchmarks
from pipo.home import CONF, look_in_this_folder
from pipo.imports import heavy_imports

register_resolvers()
register_single_benchmarks(CONF)


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(cfg: DictConfig) -> None:
    """One model on one benchmark."""

    def run() -> None:
        with heavy_imports(program=True):  # only once the command line is known to be sound
            from pipo.scoring import score

        score(cfg, list(HydraConfig.get().overrides.task))

    code, _ = exit_code(run)
    if code:
        sys.exit(code)


@hydra.main(version_base="1.3", config_path="conf", config_name="grade")
def grade(cfg: DictConfig) -> None:
    """Responses that are there already."""

    def run() -> None:
        with heavy_imports(program=True):
            from pipo.grading import grade as graded

        graded(cfg)

    code, _ = exit_code(run)
    if code:
        sys.exit(code)


def compare() -> None:
    """Two evaluations that are there already."""
    from pipo.evaluation.comparison_table import print_comparison

    print_comparison(sys.argv[2:])


if __name__ == "__main__":
    look_in_this_folder()
    if sys.argv[1:2] == ["compare"]:
        sys.exit(exit_code(compare)[0])
    if sys.argv[1:2] == ["grade"]:
        del sys.argv[1]
        expand_paths(sys.argv, "samples", "data_dir")
        with heavy_imports(program=True):  # a class that is named may bring all of it
            checked = check_command_line(sys.argv[1:], "grade")
        run_program(grade, checked)
        sys.exit()
    expand_model(sys.argv)
    expand_task(sys.argv)
    expand_paths(sys.argv)
    expand_open(sys.argv)
    with heavy_imports(program=True):  # a class that is named may bring all of it
        checked = check_command_line(sys.argv[1:], "eval")
    run_program(main, checked)
