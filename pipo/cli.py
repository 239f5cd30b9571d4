"""What both command-line programs share: resolvers for the configuration files, and how they end."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipo.errors import ConfigError, RunFailed, RunStopped
from pipo.processes import given_folder, leads, started_together
from pipo.sweep import JOB_TYPE, SWEEP_GROUP, job_name

Value = TypeVar("Value")
_PLAIN_PATH = re.compile(r"[\w./~-]*")  # also null
CONF = Path(__file__).parent.parent / "conf"


def register_resolvers() -> None:
    """The few computations that configuration files use."""

    def divide(total: int, by: int) -> int:
        if not (isinstance(total, int) and isinstance(by, int)) or by < 1 or total % by:
            raise ConfigError(f"recipe.responses={total} cannot be split into groups of algo.group_size={by}")
        return total // by

    def run_folder(resume: str | None, fresh: str) -> str:
        if resume:
            return str(resume)
        if (given := given_folder()) is not None:
            return given
        if started_together():
            raise ConfigError(
                "output_dir: several processes start at once, so name their folder: output_dir=..."
            )
        return fresh

    def wandb_offline() -> bool:
        return not os.environ.get("WANDB_API_KEY")

    def sweep_group() -> str | None:
        return os.environ.get(SWEEP_GROUP)

    def run_label(alone: str, folder: str) -> str | None:
        if "WANDB_SWEEP_ID" in os.environ:
            return None  # an agent's runs differ in what it chose, and W&B numbers them
        return alone if sweep_group() is None else Path(folder).name

    def job_type(alone: str) -> str:
        return os.environ.get(JOB_TYPE, alone)

    def tags(*names: str) -> list[str]:
        return [*names]

    def data_file(folder: str | None, stem: str) -> str | None:
        if folder is None:
            return None
        found = [Path(folder).expanduser() / f"{stem}{suffix}" for suffix in (".jsonl", ".json", ".parquet")]
        # Of none, the first name goes on, so that whoever reads it says that there is no such file.
        return str(next((file for file in found if file.is_file()), found[0]))

    plain = (data_file, divide, run_folder, wandb_offline, job_name)
    in_wandb = (sweep_group, run_label, job_type, tags)
    for function in (*plain, *in_wandb):
        OmegaConf.register_new_resolver(f"pipo.{function.__name__}", function, replace=True)


def expand_model(arguments: list[str]) -> None:
    """Let ``model=`` name a folder, a checkpoint or a hub id as well as an option of ``conf/model``.

    Args:
        arguments: the command line, changed in place: ``model=x`` becomes ``model=huggingface model.path=x``
            when x is not an option but looks like a path or an id.
    """
    options = {path.stem for path in (CONF / "model").glob("*.yaml")}
    for index, argument in enumerate(arguments):
        key, _, value = argument.partition("=")
        if key == "model" and value not in options and ("/" in value or Path(value).exists()):
            arguments[index : index + 1] = ["model=huggingface", f"model.path='{value}'"]
            return


def expand_task(arguments: list[str]) -> None:
    """Let ``task=`` name a task to score that no file in ``conf/benchmark`` mentions.

    Args:
        arguments: the command line of ``eval.py``, changed in place: ``task=x`` becomes a benchmark with x as
            its only part. With a benchmark on the same line the program ends: only one can be meant.
    """
    if {argument.partition("=")[0] for argument in arguments} >= {"task", "benchmark"}:
        print("error: task= and benchmark= both say what to score; name one of them", file=sys.stderr)
        sys.exit(2)
    for index, argument in enumerate(arguments):
        key, _, name = argument.partition("=")
        if key == "task":
            part = f"+task@benchmark.parts.{name}={name}"
            arguments[index : index + 1] = ["~benchmark", part, f"+benchmark.name={name}"]
            return


def quote_paths(arguments: list[str], *keys: str) -> None:
    """Let values that are paths hold what Hydra gives a meaning: ``=``, ``,``, blanks and brackets.

    Args:
        arguments: the command line, changed in place.
        *keys: whose values are paths.
    """
    for index, argument in enumerate(arguments):
        key, given, path = argument.partition("=")
        if key in keys and given and not _PLAIN_PATH.fullmatch(path) and path[:1] not in ("'", '"', "$"):
            escaped = path.replace("\\", "\\\\").replace("'", "\\'")
            arguments[index] = f"{key}='{escaped}'"


def exit_code(run: Callable[[], Value]) -> tuple[int, Value | None]:
    """Run a program; mistakes of the user become one line, everything else keeps its trace.

    Returns:
        Exit status and the program's value: 0, 1 for a failed run, 2 for a bad configuration, 128 + signal
        for a stopped run.
    """
    try:
        return 0, run()
    except (ConfigError, OmegaConfBaseException) as error:
        details = error.details if isinstance(error, ConfigError) else ()
        print("\n  ".join([f"error: {_first_line(error)}", *details]), file=sys.stderr)
        return 2, None
    except (RunFailed, RunStopped) as end:
        # An end that all processes share is the first one's to tell. The others must not end with an error:
        # whatever has started them would kill the first while it still writes.
        if not leads() and (isinstance(end, RunStopped) or end.agreed):
            return 0, None
        return _told(end), None
    except KeyboardInterrupt:
        print("interrupted before there was anything to save", file=sys.stderr)
        return 130, None


def _told(end: RunFailed | RunStopped) -> int:
    """Say on the terminal how a run ended; the exit status."""
    if isinstance(end, RunFailed):
        print(f"error: {end}", file=sys.stderr)
        return 1
    print(end, file=sys.stderr)
    return end.code


def check_command_line(arguments: list[str], config_name: str) -> None:
    """Compose once in advance, so that an unknown option or key is one line instead of Hydra's paragraphs.

    Sweeps and Hydra's own flags are left to Hydra.
    """
    if any(argument.startswith("-") for argument in arguments):
        return
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose(config_name=config_name, overrides=arguments, return_hydra_config=True)
            _ = cfg.output_dir  # Hydra is about to make this folder
    except (HydraException, OmegaConfBaseException) as error:
        if _own_error(error) is not None:
            print(f"error: {_first_line(error)}", file=sys.stderr)
            sys.exit(2)
        text = f"{error}\n{error.__cause__ or ''}"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        options = [line for line in lines if " " not in line and "=" not in line]
        noise = ("to append", "config search path", "provider=", "set the environment", "full_key")
        said = [line.rstrip(".:") for line in lines if line not in options]
        said = [line for line in said if not line.lower().startswith(noise)][:2]
        print(f"error: {': '.join([*said, ', '.join(options)]).removesuffix(': ')}", file=sys.stderr)
        sys.exit(2)


def _first_line(error: Exception) -> str:
    """OmegaConf adds lines about its own types; the message of an inner ConfigError comes first."""
    return str(_own_error(error) or error).splitlines()[0]


def _own_error(error: BaseException | None) -> ConfigError | None:
    """The ConfigError behind an error of OmegaConf, if that is what it is about."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error
