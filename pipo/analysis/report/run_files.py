"""Read a run folder for its report: configuration, metrics, summary, held-out records, probe, log."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from yaml import YAMLError

from pipo.analysis.run_metrics import Run, read_run
from pipo.errors import ConfigError
from pipo.evaluation.held_out import AFTER_FILE, BEFORE_FILE, HeldOutRecord, read_record
from pipo.evaluation.results import Summary
from pipo.runs.run_folder import LOG_FILE, RECORD_FILE
from pipo.runs.run_log import METRICS_FILE, PROBE_FILE, has_rows, read_lines, read_metrics

_LOG_LINE = re.compile(r"\[(?P<time>[^\]]*)\]\[(?P<name>[^\]]*)\]\[(?P<level>[A-Z]+)\] (?P<text>.*)")


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of the run's log."""

    time: str
    """When, as the log has it."""
    level: str
    """``WARNING`` and so on."""
    text: str
    """The message, without a trace that may follow."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run folder, read."""

    folder: Path
    """The run folder."""
    config: DictConfig
    """The composed configuration."""
    config_text: str
    """The configuration as it stands in the file."""
    starts: Sequence[Mapping[str, Any]]
    """Command, commit and versions of every start, the first first."""
    run: Run | None
    """The metrics; None when none were logged."""
    summary: Mapping[str, Any] | None
    """``summary.json`` of a run that came to an end, its budget's or a limit's; None when the evaluation
    after it is missing.
    """
    before: HeldOutRecord | None
    """The held-out problems before training; None when they were not recorded."""
    after: HeldOutRecord | None
    """The held-out problems after training; None for an unfinished run, too."""
    probe: Sequence[Mapping[str, Any]]
    """Rows of the probe; empty without one."""
    log: Sequence[LogLine]
    """The lines of ``train.log`` that have a level."""

    @property
    def done(self) -> int:
        """Iterations that were made, as far as the files tell."""
        if self.summary is not None:
            return int(self.summary["iterations"])
        return 0 if self.run is None else max(self.run.rows) + 1

    @property
    def summary_before(self) -> Summary | None:
        """The evaluation before training."""
        if self.summary is not None:
            return self.summary["before"]
        return None if self.before is None else self.before.summary

    @property
    def summary_after(self) -> Summary | None:
        """The evaluation after training."""
        return None if self.summary is None else self.summary["after"]


def read_folder(folder: Path) -> RunFiles:
    """Read what is there; a run may be unfinished, and may have been told to log little.

    Raises:
        ConfigError: when this is not the folder of a training run, or naming a file that is damaged.
    """
    try:
        return _read_folder(folder)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _read_folder(folder: Path) -> RunFiles:
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder}: no run here (config.yaml is missing)")
    text = path.read_text(encoding="utf-8")
    try:
        config = _parsed(text)
    except YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(config, DictConfig) or "iterations" not in config:
        raise ConfigError(f"{folder}: not a training run; eval.py leaves its own tables in its folder")
    summary_path, metrics, probe = (folder / name for name in ("summary.json", METRICS_FILE, PROBE_FILE))
    summary = _summary(summary_path) if summary_path.exists() else None
    run = read_run(folder.resolve().name, metrics) if has_rows(metrics) else None
    if summary is not None and summary["iterations"] != config.iterations:
        went_on = run is not None and max(run.rows) >= summary["iterations"]
        if summary["ended_by"] is None or went_on:
            summary = None  # of an earlier end, before the run went on
    before, after = (
        read_record(folder / name) if (folder / name).exists() else None for name in (BEFORE_FILE, AFTER_FILE)
    )
    return RunFiles(
        folder=folder.resolve(),
        config=config,
        config_text=text,
        starts=_starts(folder / RECORD_FILE),
        run=run,
        summary=summary,
        before=before,
        after=after if summary is not None else None,
        probe=read_metrics(probe) if probe.exists() else (),
        log=_log(folder / LOG_FILE),
    )


@lru_cache(maxsize=1)
def _parsed(text: str) -> DictConfig | ListConfig:
    """A configuration, not to be changed: the pages at the end of a run all read the same one."""
    return OmegaConf.load(io.StringIO(text))


def _starts(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return read_lines(path, itemgetter("command", "git", "python", "versions"), "a record of a start")


def _summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        needed = {key: content[key] for key in ("iterations", "seconds", "before", "after")}
        return {**needed, "ended_by": content.get("ended_by")}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the summary of a run ({error})") from error


def _log(path: Path) -> list[LogLine]:
    """The lines with a level; what stands below one is a trace."""
    if not path.exists():
        return []
    found = [_LOG_LINE.match(line) for line in path.read_text(encoding="utf-8", errors="replace").split("\n")]
    return [LogLine(time=m["time"], level=m["level"], text=m["text"]) for m in found if m is not None]
