"""Which keys a configuration may have: those that a program reads, and those that other values refer to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pipo.errors import ConfigError

# What is below a leaf is checked against the constructor that it is handed to.
Tree = Mapping[str, "Tree | None"]
ANY = "*"
# How alike two names are, from 0 to 1, when one may be meant for the other.
_NEAR = 0.7
_REFERENCE = re.compile(r"\$\{(?:oc\.select: *)?([.\w]+)(?=[,}])")
# What other programs call it -> how it is called here.
_ELSEWHERE = {
    "trainer": "strategy.trainer",
    "ckpt_path": "resume=<run folder>",
    "debug": "strategy.trainer.fast_dev_run=true",
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
}


def _leaves(names: str) -> Tree:
    return dict.fromkeys(names.split())


_TASK = _leaves("name max_prompt_tokens max_response_tokens source")
_BOTH: Tree = {
    **_leaves("run_name run_tags job_type resume data_dir output_dir"),
    "model": _leaves("name path dtype gradient_checkpointing"),
    "rollout": _leaves("temperature top_p top_k importance_correction importance_cap engine"),
    "evaluation": _leaves("problems samples ks prompts_per_batch confidence resamples seed"),
    "logger": _leaves("name wandb"),
}
TRAIN: Tree = {
    **_BOTH,
    **_leaves("seed iterations pipo"),
    "callbacks": {ANY: None},
    "algo": {
        **_leaves(
            "name group_size prompts mini_batch dynamic_sampling_rounds optimizer objective "
            "importance_correction"
        ),
        "reward_terms": {ANY: None},
    },
    "recipe": _leaves("responses mini_batch learning_rate kl_coef"),
    "task": _TASK,
    "strategy": _leaves("trainer compute_dtype sharding batching"),
    "curve": _leaves("every samples"),
    "probe": _leaves("prompts samples"),
    "checkpoint": _leaves("every keep best"),
    "samples": _leaves("every prompts held_out"),
}
_BENCHMARK: Tree = {**_leaves("name average weights not_covered"), "parts": {ANY: _TASK}}
EVAL: Tree = {**_BOTH, **_leaves("device preview"), "benchmark": _BENCHMARK}
# Of these, a grading has one.
_GRADERS = ("task", "benchmark")
GRADE: Tree = {**_leaves("samples data_dir output_dir batch"), "task": _TASK, "benchmark": _BENCHMARK}


def check_keys(cfg: DictConfig, tree: Tree) -> None:
    """Refuse a key that nothing reads; with ``+`` on the command line, or in a file, any can be added.

    Args:
        cfg: the composed configuration, with or without Hydra's own.
        tree: what the program reads.

    Raises:
        ConfigError: naming the key, and what may have been meant; or one that is missing.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    references = set(_references(plain, ()))
    if HydraConfig.initialized():
        references |= set(_references(OmegaConf.to_container(HydraConfig.get(), resolve=False), ("hydra",)))
    plain.pop("hydra", None)  # checked by Hydra
    _check(plain, tree, (), references, {str(name): value for name, value in plain.items()})
    absent = [name for name in tree if name not in plain and not (tree is GRADE and name in _GRADERS)]
    if absent:
        raise ConfigError(f"{absent[0]}: missing; it is needed, so it cannot be taken out")


def near_miss(key: str, plain: Mapping[str, Any]) -> str | None:
    """What may have been meant by an unknown key, if anything is near.

    Args:
        key: dotted, as it was typed.
        plain: a configuration that has the right keys.
    """
    *node, name = key.split(".")
    if (here := _ELSEWHERE.get(node[0] if node else name)) is not None and not _at(plain, node):
        return ".".join([here, *node[1:], name]) if node and here.startswith("strategy") else here
    siblings = _at(plain, node)
    if near := difflib.get_close_matches(name, [str(each) for each in siblings], n=1, cutoff=_NEAR):
        return ".".join([*node, near[0]])
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    same = [".".join(path) for path in _paths(plain, ()) if path[-1] == name]
    return same[0] if len(same) == 1 else None


def _check(
    node: Any, tree: Tree, path: tuple[str, ...], references: set[tuple[str, ...]], whole: Mapping[str, Any]
) -> None:
    key = ".".join(path)
    if isinstance(node, str) and node.startswith("${"):
        return  # another node in its place
    if not isinstance(node, dict):
        takes = ", ".join(f"{key}.{'<name>' if name == ANY else name}" for name in tree)
        raise ConfigError(f"{key} holds further keys and cannot be {node!r}; set {takes}")
    for name, value in node.items():
        here = (*path, str(name))
        known = tree.get(name, tree.get(ANY))
        if known is not None:
            _check(value, known, here, references, whole)
        elif name in tree or ANY in tree or _referred(here, references):
            continue
        elif isinstance(value, dict) and any(each[: len(here)] == here for each in references):
            _check(value, {}, here, references, whole)  # a node of the user's own, for others to refer to
        else:
            raise _unknown(here, tree, whole)


def _unknown(path: tuple[str, ...], tree: Tree, whole: Mapping[str, Any]) -> ConfigError:
    """What is said about a key that nothing reads."""
    key, node = ".".join(path), ".".join(path[:-1])
    others = _without(whole, path)
    takes = sorted({*map(str, _at(others, path[:-1])), *tree} - {ANY})
    if near := difflib.get_close_matches(path[-1], takes, n=1, cutoff=_NEAR):
        return ConfigError(f"{key}: unknown key; did you mean {'.'.join([*path[:-1], near[0]])}?")
    if (near := near_miss(key, others)) is not None:
        return ConfigError(f"{key}: unknown key; did you mean {near}?")
    known = ", ".join(takes)
    return ConfigError(f"{key}: unknown key; {f'{node} takes {known}' if node else f'known are {known}'}")


def _referred(path: tuple[str, ...], references: set[tuple[str, ...]]) -> bool:
    """Whether a value refers to this key, or to a node that it is in."""
    return any(path[:n] in references for n in range(1, len(path) + 1))


def _references(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The keys that interpolations refer to."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _references(inner, (*path, str(name)))
    elif isinstance(value, str):
        for reference in _REFERENCE.findall(value):
            name = reference.lstrip(".")
            levels = len(reference) - len(name)
            yield (*(path[: len(path) - levels] if levels else ()), *name.split("."))


def _at(plain: Mapping[str, Any], path: Any) -> Mapping[str, Any]:
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


def _without(plain: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    head, *rest = path
    return {
        name: _without(value, tuple(rest)) if name == head and rest and isinstance(value, dict) else value
        for name, value in plain.items()
        if name != head or rest
    }
