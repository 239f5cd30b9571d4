"""OmegaConf resolvers, exit codes and error lines of the command-line programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipo.config.sweep import JOB_TYPE, SWEEP_GROUP, job_name
from pipo.distributed.processes import given_folder, is_first, started_together
from pipo.errors import ConfigError, RunFailed, RunStopped

Value = TypeVar("Value")


def register_resolvers() -> None:
    """The few computations that configuration files use."""

    def divide(total: int, by: int) -> int:
        if not (isinstance(total, int) and isinstance(by, int)) or by < 1 or total % by:
            raise ConfigError(f"recipe.responses={total} cannot be split into groups of algo.group_size={by}")
        return total // by

    def iterations(problems: int, answers: int, prompts: int, group_size: int) -> int:
        """As many as sample so many answers for every problem; what is left of an epoch is left out."""
        if (count := answers * (problems // prompts) // group_size) < 1:
            raise ConfigError(
                f"iterations: {answers} answers for each of {problems} problems are less than one of "
                f"{prompts} prompts x {group_size}; set iterations= or a smaller recipe.responses="
            )
        return count

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

    def run_label(folder: str, *, _root_: DictConfig) -> str | None:
        if "WANDB_SWEEP_ID" in os.environ:
            return None  # an agent's runs differ in what it chose, and W&B numbers them
        if sweep_group() is not None:
            return Path(folder).name
        if not _trains(_root_):
            return f"eval-{_root_.benchmark.name}-{_root_.model.name}"
        return f"{_root_.algo.name}-{_root_.pipo.name}-{_root_.task.name}-seed{_root_.seed}"

    def job_type(*, _root_: DictConfig) -> str:
        return os.environ.get(JOB_TYPE, "train" if _trains(_root_) else "eval")

    def tags(*, _root_: DictConfig) -> ListConfig:
        training = (_root_.algo.name, f"pipo-{_root_.pipo.name}", _root_.task.name) if _trains(_root_) else ()
        names = training or (_root_.benchmark.name,)
        # A plain list could not be shown by --cfg job --resolve.
        return OmegaConf.create([*names, _root_.model.name])

    def data_file(folder: str | None, stem: str) -> str | None:
        if folder is None:
            return None
        found = [Path(folder).expanduser() / f"{stem}{suffix}" for suffix in (".jsonl", ".json", ".parquet")]
        # Of none, the first name goes on, so that whoever reads it says that there is no such file.
        return str(next((file for file in found if file.is_file()), found[0]))

    def either(first: str | None, second: str) -> str:
        return second if first is None else first

    def correction(dtype: str, by_algorithm: str) -> str:
        return "token" if (dtype, by_algorithm) == ("bfloat16", "none") else by_algorithm

    plain = (correction, data_file, divide, either, iterations, run_folder, wandb_offline, job_name)
    in_wandb = (sweep_group, run_label, job_type, tags)
    for function in (*plain, *in_wandb):
        OmegaConf.register_new_resolver(f"pipo.{function.__name__}", function, replace=True)


def _trains(root: DictConfig) -> bool:
    return "algo" in root


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
        print("\n  ".join([f"error: {first_line(error)}", *details]), file=sys.stderr)
        return 2, None
    except (RunFailed, RunStopped) as end:
        # An end that all processes share is the first one's to tell. The others must not end with an error:
        # whatever has started them would kill the first while it still writes.
        if not is_first() and (isinstance(end, RunStopped) or end.agreed):
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


def first_line(error: Exception) -> str:
    """OmegaConf adds lines about its own types; the message of an inner ConfigError comes first."""
    return str(own_error(error) or error).splitlines()[0]


def own_error(error: BaseException | None) -> ConfigError | None:
    """The ConfigError behind an error of OmegaConf, if that is what it is about."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error
