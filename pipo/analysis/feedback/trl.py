"""Readers of what TRL writes: ``trainer_state.json``, and tables of completions in Parquet."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from pipo.analysis.feedback.curve import Curve, from_means, from_prompts
from pipo.analysis.feedback.reading import Rewards, add, head, listed, number, some, text_of, whole
from pipo.errors import ConfigError, reason

STATE_FILE = "trainer_state.json"
# Columns of a table of completions that are no rewards.
_OTHER_COLUMNS = {"step", "prompt", "completion", "advantage", "image", "images"}


def is_state(path: Path) -> bool:
    """Whether it is a trainer's state, or a folder of checkpoints that have one."""
    if path.is_dir():
        return _state_file(path) is not None
    return path.suffix == ".json" and b'"log_history"' in path.read_bytes()


def is_completions(path: Path) -> bool:
    """Whether it is a Parquet file, or a folder with tables of completions."""
    if path.is_dir():
        return bool(_tables(path))
    return head(path).startswith(b"PAR1")


def read_state(path: Path, reward: str | None) -> Curve:
    """The curve in ``log_history``; rows of evaluations and rows without a reward are passed over."""
    file = _state_file(path) if path.is_dir() else path
    if file is None:
        raise ConfigError(f"{path}: no {STATE_FILE} in it or in a checkpoint-* folder")
    try:
        history = json.loads(text_of(file))["log_history"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not a trainer's state; log_history is missing") from error
    key = reward or "reward"
    means: dict[int, float] = {}
    for n, row in enumerate(history):
        if isinstance(row, dict) and key in row:
            where = f"{file}, log_history[{n}]"
            means[whole(row.get("step"), f"{where}, step")] = number(row[key], f"{where}, {key}")
    some(means, file, f"{key} in any row of log_history")
    name = path.name if path.is_dir() else path.parent.name or path.name
    return from_means(name, f"TRL, {key} of {file.name}", means)


def read_completions(path: Path, reward: str | None) -> Curve:
    """Rewards by prompt from tables with the columns step, prompt and one for each reward function."""
    rewards: Rewards = {}
    columns: list[str] = []
    for file in _tables(path) if path.is_dir() else [path]:
        table = _parquet(file)
        for needed in ("step", "prompt"):
            if needed not in table:
                raise ConfigError(f"{file}: no column {needed}; there are {listed(list(table))}")
        columns = _reward_columns(file, table, reward)
        for n, (step, prompt) in enumerate(zip(table["step"], table["prompt"], strict=True)):
            where = f"{file}, row {n}"
            # As TRL sums them: a function that does not apply to a response counts nothing.
            values = [number(table[column][n], f"{where}, {column}") for column in columns]
            known = [value for value in values if not math.isnan(value)]
            add(
                rewards, whole(step, f"{where}, step"), _text(prompt), math.fsum(known) if known else math.nan
            )
    some(rewards, path, "rows in the tables of completions")
    return from_prompts(path.stem, f"TRL, {' + '.join(columns)} of the tables of completions", rewards)


def _state_file(folder: Path) -> Path | None:
    """The folder's own, or that of its last checkpoint, which has the whole history."""
    if (folder / STATE_FILE).is_file():
        return folder / STATE_FILE
    found = {
        int(match[1]): file
        for file in folder.glob(f"checkpoint-*/{STATE_FILE}")
        if (match := re.fullmatch(r"checkpoint-(\d+)", file.parent.name))
    }
    return found[max(found)] if found else None


def _tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("completions/*.parquet")) or sorted(folder.glob("*.parquet"))


def _parquet(file: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow.parquet as pq
        from pyarrow import ArrowException
    except ImportError as error:
        raise ConfigError(f"{file}: Parquet needs pyarrow; pip install pyarrow") from error
    try:
        names = pq.read_schema(file).names
        # Responses are long and not needed.
        return pq.read_table(file, columns=[name for name in names if name != "completion"]).to_pydict()
    except (ArrowException, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as Parquet ({reason(error)})") from error


def _reward_columns(file: Path, table: dict[str, list[Any]], reward: str | None) -> list[str]:
    """Those asked for; else ``reward``, else the only one that holds numbers."""
    if reward is not None:
        names = reward.split(",")
        missing = [name for name in names if name not in table]
        if missing:
            raise ConfigError(f"{file}: no column {missing[0]}; there are {listed(list(table))}")
        return names
    if "reward" in table:
        return ["reward"]
    found = [name for name in table if name not in _OTHER_COLUMNS and _numeric(table[name])]
    if len(found) != 1:
        raise ConfigError(
            f"{file}: {len(found)} columns may be rewards ({listed(found or list(table))}); "
            f"say which to add up with --reward NAME,NAME"
        )
    return found


def _numeric(column: list[Any]) -> bool:
    return all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in column)


def _text(prompt: Any) -> str:
    """Prompts may be lists of messages."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)
