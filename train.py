"""Train: ``python train.py [group=option] [key=value] ...``.

Examples::

    python train.py                                  # GRPO with PIPO on the embedded default
    python train.py pipo=none                        # the baseline
    python train.py algo=grpo pipo.lambda=0.1 pipo.window=8
    python train.py -m pipo=default,none seed=1,2    # one folder per job
    python train.py resume=outputs/2026-01-31/12-00-00
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pipo.config import sweep
from pipo.config.checked_run import run_program
from pipo.config.cli import exit_code, register_resolvers
from pipo.config.command_line import check_command_line, expand_model, expand_open, expand_paths
from pipo.distributed.forks import end_if_forked
from pipo.home import look_in_this_folder
from pipo.imports import heavy_imports

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """One run; in a sweep, one run in a process of its own."""

    def run() -> float | None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return sweep.run_job(__file__)
        with heavy_imports(program=True):  # only once the command line is known to be sound
            from pipo.training import train

        return train(cfg, list(HydraConfig.get().overrides.task), forks=True)

    code, value = exit_code(run)
    end_if_forked(code)
    if code:
        sys.exit(code)
    return value


if __name__ == "__main__":
    look_in_this_folder()
    expand_model(sys.argv)
    expand_paths(sys.argv)
    expand_open(sys.argv)
    with heavy_imports(program=True):  # a class that is named may bring all of it
        checked = check_command_line(sys.argv[1:], "train")
    run_program(main, checked)
    sys.exit(sweep.report())
