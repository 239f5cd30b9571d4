"""Readers of our own runs, and of plain CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import yaml

from pipo.analysis.feedback.curve import Curve, from_means, from_prompts
from pipo.analysis.feedback.reading import (
    Rewards,
    add,
    first_object,
    head,
    json_lines,
    listed,
    number,
    some,
    text_of,
    whole,
)
from pipo.errors import ConfigError
from pipo.runs.run_log import METRICS_FILE, PROBE_FILE

_REWARD = "train/reward"
_CSV_FILE = "metrics.csv"


def is_run(path: Path) -> bool:
    """Whether it is a run folder of ours, or its metrics."""
    file = _metrics(path)
    if not file.is_file():
        return False
    return "iteration" in (_header(file) if file.suffix == ".csv" else first_object(file))


def is_csv(path: Path) -> bool:
    """Whether it is a table that names its steps and rewards."""
    return path.is_file() and path.suffix == ".csv" and "step" in _header(path)


def read_run(path: Path, reward: str | None) -> Curve:
    """The mean rewards of a run; a probe beside the metrics is taken along, and the number of prompts."""
    file, key = _metrics(path), reward or _REWARD
    if not file.is_file():
        raise ConfigError(f"{path}: no {METRICS_FILE} or {_CSV_FILE}")
    rows = _csv_rows(file) if file.suffix == ".csv" else json_lines(file)
    means: dict[int, float] = {}
    for line, row in rows:
        where = f"{file}, line {line}"
        if "iteration" not in row:
            raise ConfigError(f"{where}: iteration is missing; these are no metrics of pipo")
        if row.get(key) not in (None, ""):
            means[whole(row["iteration"], f"{where}, iteration")] = number(row[key], f"{where}, {key}")
    some(means, file, f"{key} in any row")
    folder = file.parent
    probe = folder / PROBE_FILE
    return from_means(
        folder.name,
        f"pipo, {key} of {file.name}",
        means,
        prompts=_prompts(folder / "config.yaml"),
        probe=probe if probe.is_file() else None,
    )


def read_csv(path: Path, reward: str | None) -> Curve:
    """``step,reward``; or ``step,prompt,reward`` with a row for each response, or for each prompt."""
    key = reward or "reward"
    columns = _header(path)
    for needed in ("step", key):
        if needed not in columns:
            raise ConfigError(f"{path}: no column {needed}; there are {listed(columns)}")
    rewards: Rewards = {}
    means: dict[int, float] = {}
    for line, row in _csv_rows(path):
        where = f"{path}, line {line}"
        step = whole(row["step"], f"{where}, column step")
        value = number(row[key], f"{where}, column {key}")
        if "prompt" in columns:
            add(rewards, step, row["prompt"], value)
        elif step in means:
            raise ConfigError(f"{where}: step {step} again; name the prompts in a column called prompt")
        else:
            means[step] = value
    some(rewards or means, path, "rows")
    if rewards:
        return from_prompts(path.stem, f"CSV, {key} by prompt", rewards)
    return from_means(path.stem, f"CSV, column {key}", means)


def _metrics(path: Path) -> Path:
    if not path.is_dir():
        return path
    return path / (METRICS_FILE if (path / METRICS_FILE).is_file() else _CSV_FILE)


def _header(path: Path) -> list[str]:
    line = head(path).decode("utf-8-sig", errors="replace").split("\n", 1)[0]
    return next(csv.reader([line.rstrip("\r")]), [])


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and cells of every row; rows must have as many cells as the header."""
    columns = _header(path)
    reader = csv.reader(io.StringIO(text_of(path).removeprefix("\ufeff"), newline=""))
    try:
        next(reader, None)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise ConfigError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells for {len(columns)} columns"
                )
            yield reader.line_num, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _prompts(config: Path) -> float | None:
    """Prompts per iteration of a run of ours, where its configuration is there."""
    if not config.is_file():
        return None
    try:
        tree = yaml.safe_load(text_of(config))
        return tree["recipe"]["responses"] / tree["algo"]["group_size"]
    except (yaml.YAMLError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(f"{config}: recipe.responses and algo.group_size cannot be read") from error
