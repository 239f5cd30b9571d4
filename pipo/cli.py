"""What both command-line programs share: resolvers for the configuration files, and how they end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipo.errors import ConfigError, RunStopped

Value = TypeVar("Value")


def register_resolvers() -> None:
    """The few computations that configuration files use."""

    def divide(total: int, by: int) -> int:
        if not (isinstance(total, int) and isinstance(by, int)) or by < 1 or total % by:
            raise ConfigError(f"recipe.responses={total} cannot be split into groups of algo.group_size={by}")
        return total // by

    def run_folder(resume: str | None, fresh: str) -> str:
        return str(resume) if resume else fresh

    def wandb_offline() -> bool:
        return "WANDB_API_KEY" not in os.environ

    def sweep_group() -> str | None:
        return os.environ.get("PIPO_SWEEP_GROUP")

    for function in (divide, run_folder, wandb_offline, sweep_group):
        OmegaConf.register_new_resolver(f"pipo.{function.__name__}", function, replace=True)


def expand_model(arguments: list[str]) -> None:
    """Let ``model=`` name a folder, a checkpoint or a hub id as well as an option of ``conf/model``.

    Args:
        arguments: the command line, changed in place: ``model=x`` becomes ``model=huggingface model.path=x``
            when x is not an option but looks like a path or an id.
    """
    options = {path.stem for path in (Path(__file__).parent.parent / "conf" / "model").glob("*.yaml")}
    for index, argument in enumerate(arguments):
        key, _, value = argument.partition("=")
        if key == "model" and value not in options and ("/" in value or Path(value).exists()):
            arguments[index : index + 1] = ["model=huggingface", f"model.path='{value}'"]
            return


def exit_code(run: Callable[[], Value]) -> tuple[int, Value | None]:
    """Run a program; mistakes of the user become one line, everything else keeps its trace.

    Returns:
        Exit status and the program's value: 0, 2 for a bad configuration, 128 + signal for a stopped run.
    """
    try:
        return 0, run()
    except (ConfigError, OmegaConfBaseException) as error:
        print(f"error: {_first_line(error)}", file=sys.stderr)
        return 2, None
    except RunStopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.code, None


def _first_line(error: Exception) -> str:
    """OmegaConf adds lines about its own types; the message of an inner ConfigError comes first."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConfigError):
        cause = cause.__cause__
    return str(cause or error).splitlines()[0]
