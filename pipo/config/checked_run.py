"""A single run on the configuration that its check has composed, as ``hydra.main`` does it otherwise.

``hydra.main`` composes the configuration to learn whether a sweep is asked for, and once more for the run,
which takes a fifth of a second each time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import run_and_report
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from pipo.config.command_line import hydra_here


def run_program(main: Callable[..., Any], checked: DictConfig | None) -> None:
    """Run a program, by Hydra alone where it is asked for more than a run.

    Args:
        main: what ``hydra.main`` has made.
        checked: from :func:`~pipo.config.command_line.check_command_line`.
    """
    if checked is None:
        main()
    else:
        run_and_report(lambda: _run(inspect.unwrap(main), checked))


def _run(task: Callable[[DictConfig], Any], cfg: DictConfig) -> None:
    """Hydra's logging, callbacks, folder and environment around the task; what ends it goes on."""
    name = cfg.hydra.job.config_name
    with hydra_here():
        configure_log(cfg.hydra.hydra_logging, cfg.hydra.verbose)
        if cfg.hydra.mode is None:
            cfg.hydra.mode = RunMode.RUN
            cfg.hydra.overrides.hydra.append("hydra.mode=RUN")
        callbacks = Callbacks(cfg)
        callbacks.on_run_start(config=cfg, config_name=name)
        done = run_job(
            task_function=task,
            config=cfg,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
            hydra_context=HydraContext(
                config_loader=GlobalHydra.instance().config_loader(), callbacks=callbacks
            ),
        )
        callbacks.on_run_end(config=cfg, config_name=name, job_return=done)
        _ = done.return_value  # raises what the task has raised
