"""Readers of what verl writes: console lines, the file logger's JSON lines, and dumped rollouts."""

from __future__ import annotations

import re
from pathlib import Path

from pipo.analysis.feedback.curve import Curve, from_means, from_prompts
from pipo.analysis.feedback.reading import (
    Rewards,
    add,
    first_object,
    head,
    json_lines,
    number,
    some,
    text_of,
    whole,
)
from pipo.errors import ConfigError

# The verifier's score first; rewards are what is left of it after a KL penalty.
_KEYS = ("critic/score/mean", "critic/rewards/mean")
_STEP = re.compile(r"\bstep:(\d+) - ")
_FIELDS = {"input", "output", "score"}


def is_log(path: Path) -> bool:
    """Whether it is a console log, or the file logger's."""
    if path.is_dir():
        return False
    if {"step", "data"} <= first_object(path).keys():
        return True
    # A log begins with pages of other things.
    return not head(path).startswith((b"{", b"PAR1")) and bool(_STEP.search(text_of(path)))


def is_rollouts(path: Path) -> bool:
    """Whether it is a folder of dumped rollouts, or one of its files."""
    file = next(iter(_dumps(path).values()), None) if path.is_dir() else path
    return file is not None and first_object(file).keys() >= _FIELDS


def read_log(path: Path, reward: str | None) -> Curve:
    """The curve in a log; of an iteration that is logged twice, after a restart, the later line counts."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name verl's console log, or its file logger's .jsonl")
    keys = (reward,) if reward else _KEYS
    structured = {"step", "data"} <= first_object(path).keys()
    found = _structured(path, keys) if structured else _console(path, keys)
    key = next((key for key in keys if found[key]), keys[0])
    some(found[key], path, f"{' or '.join(keys)} in any line")
    what = "file logger" if structured else "console"
    return from_means(path.stem, f"verl, {key} of the {what}", found[key])


def read_rollouts(path: Path, reward: str | None) -> Curve:
    """Rewards by prompt from one file per iteration, whose lines hold input, output and score."""
    if not path.is_dir():
        raise ConfigError(f"{path}: one iteration's rollouts; name the folder that holds those of all")
    key, rewards = reward or "score", Rewards()
    for step, file in sorted(_dumps(path).items()):
        for line, row in json_lines(file):
            where = f"{file}, line {line}"
            if "input" not in row or key not in row:
                raise ConfigError(f"{where}: input or {key} is missing; these are no rollouts of verl")
            add(rewards, step, str(row["input"]), number(row[key], f"{where}, {key}"))
    some(rewards, path, "files called 1.jsonl, 2.jsonl, ...")
    return from_prompts(path.name, f"verl, {key} of the dumped rollouts", rewards)


def _dumps(folder: Path) -> dict[int, Path]:
    return {int(file.stem): file for file in folder.glob("*.jsonl") if file.stem.isdecimal()}


def _structured(path: Path, keys: tuple[str, ...]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {key: {} for key in keys}
    for line, row in json_lines(path):
        data = row.get("data")
        if not isinstance(data, dict):
            raise ConfigError(
                f"{path}, line {line}: data is missing; these are no lines of verl's file logger"
            )
        for key in keys:
            if key in data:
                step = whole(row.get("step"), f"{path}, line {line}, step")
                found[key][step] = number(data[key], f"{path}, line {line}, {key}")
    return found


def _console(path: Path, keys: tuple[str, ...]) -> dict[str, dict[int, float]]:
    """``step:12 - critic/score/mean:0.31 - ...``; Ray puts a name before it, numpy its type around values."""
    found: dict[str, dict[int, float]] = {key: {} for key in keys}
    for line, text in enumerate(text_of(path).splitlines(), start=1):
        step = _STEP.search(text)
        if step is None:
            continue
        for key in keys:
            value = re.search(rf" - {re.escape(key)}:(?:np\.\w+\()?([^\s)]+)", text)
            if value:
                found[key][int(step[1])] = number(value[1], f"{path}, line {line}, {key}")
    return found
