"""A run on the configuration that its check has composed, beside ``hydra.main`` alone."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pipo.config.checked_run import run_program
from pipo.config.command_line import check_command_line
from pipo.home import CONF

seen: list[Any] = []
told: list[str] = []


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> None:
    """Note everything that a program can see of its configuration and of what Hydra has done for it."""
    root = logging.getLogger()
    handlers = [(type(each).__name__, each.level) for each in root.handlers]
    seen.append(
        {
            "cfg": OmegaConf.to_container(cfg),
            "resolved": {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("algo", "recipe")},
            "struct": OmegaConf.is_struct(cfg),
            "hydra": OmegaConf.to_container(HydraConfig.get()),
            "initialised": GlobalHydra.instance().is_initialized(),
            "logging": (root.level, handlers),
            "place": os.getcwd(),
            "environment": os.environ.get("NOTED"),
        }
    )
    if cfg.seed == 7:
        raise ZeroDivisionError("a defect")


class Tells(Callback):
    """A callback of Hydra."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before everything."""
        told.append(f"run starts, {kwargs['config_name']} {config.seed} {config.hydra.mode}")

    def on_job_start(self, config: DictConfig, *, task_function: Any, **kwargs: Any) -> None:
        """Before the task."""
        told.append(f"job starts, {task_function.__name__} {config.hydra.runtime.output_dir}")

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """After the task."""
        told.append(f"job ends, {job_return.status}")

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After everything."""
        told.append("run ends")


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command by ``hydra.main`` alone and on the checked configuration; what each of them shows."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> list[tuple[Any, ...]]:
        monkeypatch.setattr(sys, "argv", [__file__, *arguments])
        ends = []
        for checked in (False, True):
            seen.clear()
            told.clear()
            try:
                run_program(main, check_command_line(arguments, "train") if checked else None)
                code = None
            except SystemExit as end:
                code = end.code
            files = {
                str(path.relative_to(tmp_path)): path.read_text()
                for path in sorted(tmp_path.rglob("*"))
                if path.is_file()
            }
            ends.append((list(seen), list(told), code, files))
        return ends

    yield run
    root.setLevel(level)
    root.handlers[:] = handlers


COMMANDS = {
    "a run": ("seed=2", "algo=dapo", "task.max_response_tokens=9"),
    "Hydra's own": (
        "hydra.run.dir=there",
        "hydra.output_subdir=.hydra",
        "hydra.job.chdir=true",
        "hydra.job.name=other",
        "+hydra.job.env_set.NOTED=yes",
        "+hydra.callbacks.tells._target_=tests.unit.test_checked_run.Tells",
        "hydra.mode=RUN",
    ),
    "a defect": ("seed=7",),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_program_sees_the_same_as_by_hydra_alone(both, capsys, kind):
    alone, checked = both(*COMMANDS[kind])
    assert checked == alone
    assert len(alone[0]) == 1
    assert alone[2] == (1 if kind == "a defect" else None)
    said = capsys.readouterr().err
    assert said.count("ZeroDivisionError: a defect") == (2 if kind == "a defect" else 0)
    assert "run_job" not in said  # Hydra leaves its own frames out of the trace
    if kind == "Hydra's own":
        assert len(alone[1]) == 4
        assert {name.rpartition("/")[2] for name in alone[3]} >= {
            "config.yaml",
            "hydra.yaml",
            "overrides.yaml",
        }


def test_a_further_folder_is_looked_into(both, tmp_path):
    (tmp_path / "own/algo").mkdir(parents=True)
    (tmp_path / "own/algo/mine.yaml").write_text("defaults: [grpo]\nname: mine\n")
    alone, checked = both("hydra.searchpath=[own]", "algo=mine", "hydra.output_subdir=.hydra")
    assert checked == alone
    assert alone[0][0]["cfg"]["algo"]["name"] == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "seed=1,2"),
        ("hydra.mode=MULTIRUN",),
        ("--cfg", "job"),
        ("--help",),
        ("--hydra-help",),
        ("--info", "all"),
        ("-sc", "query=bash"),
        ("hydra.verbose=true",),
        ("--config-dir", str(CONF)),
    ],
)
def test_what_is_more_than_a_run_is_left_to_hydra(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert check_command_line(arguments, "train") is None
