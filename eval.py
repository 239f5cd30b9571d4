"""Score: ``python eval.py model=<what> benchmark=<which> [key=value] ...``.

Examples::

    python eval.py                                          # the embedded model as it came
    python eval.py model=outputs/2026-01-31/12-00-00        # a run folder
    python eval.py model=outputs/2026-01-31/12-00-00/checkpoints/iteration_000100.ckpt
    python eval.py model=./some/hugging-face/folder evaluation.samples=32
"""

from __future__ import annotations

import os
import sys

# Waiting threads that spin cost other processes many times what they save; must be set before torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hydra
from omegaconf import DictConfig

from pipo.cli import check_command_line, exit_code, expand_model, register_resolvers

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(cfg: DictConfig) -> None:
    """One model on one benchmark."""

    def run() -> None:
        from pipo.scoring import score  # heavy imports only once the command line is known to be sound

        score(cfg)

    code, _ = exit_code(run)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    expand_model(sys.argv)
    check_command_line(sys.argv[1:], "eval")
    main()
