"""Group runs that differ in their seed alone, by config.yaml; mean and interval of a metric over each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from pipo.analysis.run_metrics import Run, read_run, smooth
from pipo.errors import ConfigError
from pipo.evaluation.over_seeds import half_widths
from pipo.evaluation.statistics import Floats
from pipo.runs.run_log import ACCURACY, METRICS_FILE, has_rows

# They differ between the runs of any sweep, and do not say what a run does.
_NOT_COMPARED = ("seed", "output_dir", "resume", "logger")
# Metrics between 0 and 1; so are the ends of their intervals.
_SHARES = (ACCURACY, "train/reward")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that are drawn as one line: one run, or several of which the mean and its interval are drawn."""

    name: str
    """Name of the group in the legend."""
    runs: tuple[Run, ...]
    """One run or more."""

    @property
    def label(self) -> str:
        """The name, and the number of runs when there are several."""
        return self.name if len(self.runs) == 1 else f"{self.name} ({len(self.runs)} runs)"

    def has(self, metric: str) -> bool:
        """Whether any of the runs logged it."""
        return any(len(run.series(metric)[1]) for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class Band:
    """A metric of a group, at the iterations where all of its runs have it."""

    at: Floats
    """The iterations."""
    centre: Floats
    """The run's values, or the mean over runs."""
    low: Floats
    """Lower end of the 95 % t-interval over runs; of one run the lower end of the interval that it logged
    itself, or nan.
    """
    high: Floats
    """Upper end of the same interval."""


def band(group: Group, metric: str, window: int = 1) -> Band:
    """Average each run over ``window`` iterations, then take the mean over runs; empty when one lacks it.

    A metric that is logged now and then is averaged over those iterations of the window that have it, from
    the first one on.
    """
    columns: list[dict[int, float]] = []
    for run in group.runs:
        values = run.values(metric)
        averaged = smooth(values, window) if window > 1 else values
        known = np.flatnonzero(np.isfinite(values))
        first = known[0] if len(known) else len(values)
        places = zip(run.rows, averaged, strict=True)
        columns.append({i: value for n, (i, value) in enumerate(places) if n >= first and np.isfinite(value)})
    at = [i for i in columns[0] if all(i in column for column in columns)]
    centre = np.array([[column[i] for i in at] for column in columns])
    if len(columns) > 1:
        width = half_widths(centre)
        low, high = centre.mean(axis=0) - width, centre.mean(axis=0) + width
        if metric in _SHARES:
            low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    else:
        rows = [group.runs[0].rows[i] for i in at]
        low, high = (
            np.array([row.get(f"{metric}_{end}", np.nan) for row in rows], dtype=np.float64)
            for end in ("low", "high")
        )
    return Band(at=np.array(at, dtype=np.float64), centre=centre.mean(axis=0), low=low, high=high)


def run_folders(folder: Path) -> list[Path]:
    """The folder itself when it holds a run, or every run below it: a sweep, or a study.

    Below a folder, a run that has logged no whole line yet is no run.

    Raises:
        ConfigError: there is none.
    """
    if (folder / METRICS_FILE).is_file():
        return [folder]
    logs = [path for path in folder.rglob(METRICS_FILE) if has_rows(path)]
    found = sorted((path.parent for path in logs), key=_natural)
    if not found:
        if folder.is_file():
            raise ConfigError(f"{folder}: this is a file; give the folder of a run, or one that holds runs")
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder")
        raise ConfigError(f"{folder}: this folder holds no {METRICS_FILE}, nor does any below it")
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """Job 10 comes after job 9."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part
    ]


def read_group(name: str, folders: Iterable[Path]) -> Group:
    """The runs of these folders as one line.

    Raises:
        ConfigError: a folder without metrics, a log that cannot be read, or the same run twice.
    """
    every = [each.resolve() for folder in folders for each in run_folders(folder)]
    twice = [each for n, each in enumerate(every) if each in every[:n]]
    if twice:
        raise ConfigError(f"{twice[0]}: this run is named twice, and would count twice in the mean")
    return Group(name=name, runs=tuple(_read(folder) for folder in every))


def find_groups(folders: Iterable[Path]) -> list[Group]:
    """Runs that differ in nothing but their seed make a group; its name is what sets it apart from others.

    Raises:
        ConfigError: a folder without metrics or configuration, or two runs that are the same in all.
    """
    every = [each.resolve() for folder in folders for each in run_folders(folder)]
    every = list(dict.fromkeys(every))
    if len(every) == 1:
        return [Group(name=every[0].name, runs=(_read(every[0]),))]
    configs = {folder: _config(folder) for folder in every}
    kept = {
        folder: {key: value for key, value in config.items() if key.split(".")[0] not in _NOT_COMPARED}
        for folder, config in configs.items()
    }
    classes: dict[tuple[tuple[str, str], ...], list[Path]] = {}
    for folder, config in kept.items():
        classes.setdefault(tuple(sorted(config.items())), []).append(folder)
    for members in classes.values():
        _refuse_repeats(members, configs)
    names = _names([dict(key) for key in classes]) if len(classes) > 1 else [_common_folder(every).name]
    groups = [
        Group(name=name, runs=tuple(_read(folder) for folder in members))
        for name, members in zip(names, classes.values(), strict=True)
    ]
    return groups


def _names(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """What sets each configuration apart, in as few words as do.

    Names of options come first, then whatever separates most. A key that separates nothing that the keys
    before it have not separated already is left out: ``pipo=none`` has no window, so beside ``pipo=default``
    the window needs no word. A value that most of the configurations have is left out as well.
    """
    keys = list(dict.fromkeys(key for config in configs for key in config))
    chosen: list[str] = []

    def parts(key: str) -> int:
        return len({tuple(config.get(each) for each in [*chosen, key]) for config in configs})

    found = 1
    while found < len(configs):
        best = max(keys, key=lambda key: (parts(key) > found and key.endswith(".name"), parts(key)))
        found = parts(best)
        chosen.append(best)
    usual = {key: _majority([config[key] for config in configs if key in config]) for key in chosen}
    short = [_words(config, chosen, usual) for config in configs]
    return short if len(set(short)) == len(short) else [_words(config, chosen, {}) for config in configs]


def _words(config: Mapping[str, str], keys: Sequence[str], usual: Mapping[str, str | None]) -> str:
    """``pipo=default, lambda=0.1`` and the like."""
    said = [key for key in keys if key in config and (key.endswith(".name") or config[key] != usual.get(key))]
    if not said:
        said = [key for key in keys if key in config]
    return ", ".join(f"{key.removesuffix('.name').split('.')[-1]}={config[key]}" for key in said)


def _majority(values: Sequence[str]) -> str | None:
    """What more than half of them are."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _refuse_repeats(members: Sequence[Path], configs: Mapping[Path, Mapping[str, str]]) -> None:
    seeds: dict[str, Path] = {}
    for folder in members:
        seed = configs[folder]["seed"]
        if seed in seeds:
            raise ConfigError(
                f"{folder}: the same configuration and seed {seed} as {seeds[seed]}; leave one out, or "
                "say with --group NAME=FOLDER,FOLDER what belongs together"
            )
        seeds[seed] = folder


def _config(folder: Path) -> dict[str, str]:
    """The leaves of a run's configuration, interpolations as they stand: what follows from others is no news.

    Raises:
        ConfigError: it has none, or it is not one.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{folder}: holds no config.yaml, which says what sets the run apart; name it yourself with "
            f"--group NAME={folder}"
        )
    leaves: dict[str, str] = {}
    _flatten(OmegaConf.to_container(OmegaConf.load(path), resolve=False), "", leaves)
    if "seed" not in leaves:
        raise ConfigError(f"{path}: has no seed; it is not the configuration of a training run")
    return leaves


def _flatten(node: Any, prefix: str, into: dict[str, str]) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            _flatten(value, f"{prefix}{key}.", into)
    else:
        into[prefix.removesuffix(".")] = "null" if node is None else str(node)


def _read(folder: Path) -> Run:
    try:
        return read_run(folder.name, folder / METRICS_FILE)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _common_folder(folders: Sequence[Path]) -> Path:
    parents = [set(folder.parents) for folder in folders]
    return max(set.intersection(*parents), key=lambda path: len(path.parts))
