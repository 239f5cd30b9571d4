"""Readers of what prime-rl writes: the orchestrator's ``metrics.jsonl``, and traces of every iteration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipo.analysis.feedback.curve import Curve, from_means, from_prompts
from pipo.analysis.feedback.reading import (
    Rewards,
    add,
    first_object,
    json_lines,
    listed,
    number,
    some,
    whole,
)
from pipo.errors import ConfigError
from pipo.runs.run_log import METRICS_FILE

# Before the filters: ``effective`` instead of ``all`` is what is left after them.
_KEY = re.compile(r"train/agg/all/[^/]+/reward/mean")
_TRACES = "rollouts/step_*/train/all/traces.jsonl"


def is_metrics(path: Path) -> bool:
    """Whether it is a ``metrics.jsonl`` with steps and times, or a folder that holds one."""
    file = path / METRICS_FILE if path.is_dir() else path
    return file.is_file() and {"step", "time"} <= first_object(file).keys()


def is_traces(path: Path) -> bool:
    """Whether it is a run folder with traces."""
    return path.is_dir() and next(path.glob(_TRACES), None) is not None


def read_metrics(path: Path, reward: str | None) -> Curve:
    """The curve; trainer and orchestrator write rows of their own for one step, and a resumed run again."""
    file = path / METRICS_FILE if path.is_dir() else path
    found: dict[str, dict[int, float]] = {}
    for line, row in json_lines(file):
        where = f"{file}, line {line}"
        for key in row:
            if key == reward or (reward is None and _KEY.fullmatch(key)):
                step = whole(row.get("step"), f"{where}, step")
                found.setdefault(key, {})[step] = number(row[key], f"{where}, {key}")
    some(found, file, reward or "train/agg/all/<agent>/reward/mean in any line")
    if len(found) > 1:
        raise ConfigError(
            f"{file}: rewards of several agents; say which with --reward: {listed(list(found))}"
        )
    ((key, means),) = found.items()
    return from_means(path.name if path.is_dir() else path.parent.name, f"prime-rl, {key}", means)


def read_traces(path: Path, reward: str | None) -> Curve:
    """Rewards by group, of all traces that came in: filtered ones, too, as mu counts them."""
    rewards: Rewards = {}
    agents: set[str] = set()
    for file in path.glob(_TRACES):
        step = whole(file.parents[2].name.removeprefix("step_"), str(file.parents[2]))
        for line, row in json_lines(file):
            where = f"{file}, line {line}"
            # Up to version 0.8 a line is a trace, later an episode of one or several.
            for trace in row.get("traces", [row]):
                group = (row.get("group") or {}).get("id") or (trace.get("info") or {}).get("group_id")
                if group is None:
                    raise ConfigError(f"{where}: no group; its prompt is not known; use --form prime-rl")
                agents.add(str((trace.get("agent") or {}).get("name")))
                add(rewards, step, str(group), _reward(trace, reward, where))
    some(rewards, path, f"lines in {_TRACES}")
    if len(agents) > 1:
        raise ConfigError(
            f"{path}: traces of several agents ({listed(sorted(agents))}); "
            "use --form prime-rl --reward train/agg/all/<agent>/reward/mean"
        )
    return from_prompts(path.name, "prime-rl, traces of all rollouts", rewards)


def _reward(trace: Mapping[str, Any], reward: str | None, where: str) -> float:
    """Sum of score times weight; a trace that failed before scoring has 0, as in prime-rl's own mean."""
    parts = trace.get("rewards")
    if not isinstance(parts, dict):
        raise ConfigError(f"{where}: rewards are missing; these are no traces of prime-rl")
    if reward is not None:
        parts = {reward: parts.get(reward)}
    values = [
        number(part["score"], f"{where}, {name}") * number(part.get("weight", 1.0), f"{where}, {name}")
        for name, part in parts.items()
        if isinstance(part, dict) and "score" in part
    ]
    return math.fsum(values)
