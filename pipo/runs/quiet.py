"""Silence what libraries say on the terminal; the log file has it."""

from __future__ import annotations

import logging
import warnings

import transformers


def quiet() -> None:
    """Silence progress bars and notices that tell a user nothing about the run."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # One batch is an iteration that makes its own data, so a loader without workers is the right one.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The schedule counts iterations, also those in which only a critic is trained.
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step\\(\\)` before `optimizer.step.*")
    # A time limit's clock is not taken over by the next start.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*'Timer'.*")
    # Raised inside PEFT's, Lightning's and torch's own code.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
