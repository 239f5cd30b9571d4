"""Suggest the key that a misspelt one may mean, other programs' names for it included."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# How alike two names are, from 0 to 1, when one may be meant for the other.
_NEAR = 0.7
# What other programs call it -> how it is called here.
_ELSEWHERE = {
    "ckpt_path": "resume=<run folder>",
    "fast_dev_run": "debug=fast",
    "data": "task",
    "datamodule": "task",
    "task_name": "output_dir",
    "paths": "output_dir or data_dir",
    "max_epochs": "iterations",
    "max_steps": "iterations",
    "epochs": "iterations",
    "lr": "recipe.learning_rate",
    "batch_size": "recipe.responses or recipe.mini_batch",
    "num_generations": "algo.group_size",
    "beta": "recipe.kl_coef",
    "max_new_tokens": "task.max_response_tokens",
    "max_tokens": "task.max_response_tokens",
    "wandb": "logger=wandb",
    "hub": "push_to_hub=org/name",
    "hub_model_id": "push_to_hub=org/name",
}


def near(name: str, names: Iterable[str]) -> str | None:
    """The name that is nearest to one, if any is near; with the same letters before all others."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=_NEAR)
    swapped = [each for each in close if sorted(each) == sorted(name)]
    return next(iter([*swapped, *close]), None)


def near_miss(key: str, plain: Mapping[str, Any]) -> str | None:
    """The key that may have been meant by an unknown one, if any is near.

    Args:
        key: dotted, as it was typed.
        plain: a configuration that has the right keys.
    """
    *node, name = key.split(".")
    if (here := _ELSEWHERE.get(node[0] if node else name)) is not None and not _at(plain, node):
        return here
    if (sibling := near(name, map(str, _at(plain, node)))) is not None:
        return ".".join([*node, sibling])
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    same = [".".join(path) for path in _paths(plain, ()) if path[-1] == name]
    return same[0] if len(same) == 1 else None


def _at(plain: Mapping[str, Any], path: Iterable[str]) -> Mapping[str, Any]:
    node: Any = plain
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _paths(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, value in node.items():
        if str(name).startswith("_"):
            continue
        yield (*path, str(name))
        if isinstance(value, dict):
            yield from _paths(value, (*path, str(name)))
