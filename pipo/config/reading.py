"""Read Hydra's composed configuration into the typed tree; nothing behind this sees a ``DictConfig``."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pipo.config.explain import explained
from pipo.config.near_miss import near, near_miss
from pipo.config.open_nodes import TARGET, Open
from pipo.config.tree import EvalConfig, GradeConfig, ModelConfig, TrainConfig
from pipo.errors import ConfigError
from pipo.records.options import Options

Config = TypeVar("Config", TrainConfig, EvalConfig, GradeConfig)
Path = tuple[str, ...]
_REFERENCE = re.compile(r"\$\{(?:oc\.select: *)?([.\w\[\]]+)(?=[,}])")


def read(cfg: DictConfig, kind: type[Config]) -> Config:
    """Check a composed configuration and give it its types.

    Args:
        cfg: composed, with or without Hydra's own node.
        kind: what the program reads.

    Raises:
        ConfigError: one line that names the key, what is wanted there and what was given.
    """
    written = _plain(cfg)
    references = set(_references(written, ()))
    written.pop("hydra", None)  # checked by Hydra
    if HydraConfig.initialized():
        references |= set(_references(_plain(HydraConfig.get()), ("hydra",)))
    names = _Names(written, references)
    names.check(written, kind, ())
    resolved = composed(cfg)
    for path in names.own:
        _at(resolved, path[:-1]).pop(path[-1])
    try:
        return kind.model_validate(_opened(resolved, written, ()))
    except pydantic.ValidationError as error:
        raise explained(error, "", written) from error


def read_model(cfg: DictConfig) -> ModelConfig:
    """The model of a saved configuration.

    Raises:
        ConfigError: naming the key.
    """
    written = _plain(cfg.model)
    try:
        return ModelConfig.model_validate(_opened(composed(cfg)["model"], written, ("model",)))
    except pydantic.ValidationError as error:
        raise explained(error, "model", written) from error


def composed(cfg: DictConfig) -> dict[str, Any]:
    """The whole configuration as plain values, for the files and services that record it."""
    values = {str(name): cfg[name] for name in cfg if name != "hydra"}
    return {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in values.items()
    }


def _plain(cfg: Any) -> dict[str, Any]:
    """The same with its references."""
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


class _Names:
    """Looks whether every key is one that something reads; with ``+``, or in a file, any can be added.

    Args:
        written: the whole configuration, unresolved.
        references: keys that some value refers to; they may be of the user's own.

    Attributes:
        own: keys of the user's own, for others to refer to, which the typed tree does not hold.
    """

    def __init__(self, written: Mapping[str, Any], references: set[Path]) -> None:
        self.written, self.references = written, references
        self.own: list[Path] = []

    def check(self, node: Any, kind: Any, path: Path) -> None:
        """Refuse what is unknown or has no value, in a node and below it."""
        if node == "???":
            key = ".".join(path)
            raise ConfigError(f"{key} has no value; set it, for example {key}=...")
        if isinstance(node, dict) and TARGET in node:
            for name, value in node.items():
                self.check(value, None, (*path, str(name)))  # its class says what it takes
            return
        known, others, needed = _fields(kind, node)
        if (known is None and others is None) or (isinstance(node, str) and node.startswith("${")):
            return  # a value, an open node, or another node in its place
        if not isinstance(node, dict):
            if node is None and type(None) in typing.get_args(kind):
                return
            takes = ", ".join(f"{'.'.join(path)}.{name}" for name in known or ("<name>",))
            raise ConfigError(f"{'.'.join(path)} holds further keys and cannot be {node!r}; set {takes}")
        for name, value in node.items():
            here = (*path, str(name))
            if known is not None and name in known:
                self.check(value, known[name], here)
            elif others is not None:
                self.check(value, others, here)
            elif self._referred(here):
                self.check(value, None, here)
                self.own.append(here)
            elif isinstance(value, dict | list) and any(e[: len(here)] == here for e in self.references):
                if isinstance(value, dict):
                    self._check_own(value, here)
                self.own.append(here)
            else:
                raise self._unknown(here, known or {})
        for name in needed - set(node):
            raise ConfigError(f"{'.'.join((*path, name))}: missing; it is needed, so it cannot be taken out")

    def _check_own(self, node: Mapping[str, Any], path: Path) -> None:
        """A node of the user's own: everything in it must be referred to."""
        for name, value in node.items():
            here = (*path, str(name))
            if self._referred(here):
                continue
            if isinstance(value, dict) and any(each[: len(here)] == here for each in self.references):
                self._check_own(value, here)
            else:
                raise self._unknown(here, {})

    def _referred(self, path: Path) -> bool:
        """Whether a value refers to this key, or to a node that it is in."""
        return any(path[:n] in self.references for n in range(1, len(path) + 1))

    def _unknown(self, path: Path, known: Mapping[str, Any]) -> ConfigError:
        key, node = ".".join(path), ".".join(path[:-1])
        others = _without(self.written, path)
        takes = sorted({*map(str, _at(others, path[:-1])), *known})
        if (meant := near(path[-1], takes)) is not None:
            return ConfigError(f"{key}: unknown key; did you mean {'.'.join([*path[:-1], meant])}?")
        if (meant := near_miss(key, others)) is not None:
            return ConfigError(f"{key}: unknown key; did you mean {meant}?")
        listed = ", ".join(takes)
        return ConfigError(
            f"{key}: unknown key; {f'{node} takes {listed}' if node else f'known are {listed}'}"
        )


def _fields(kind: Any, node: Any) -> tuple[dict[str, Any] | None, Any, set[str]]:
    """What a node may hold.

    Returns:
        Name -> type of the fields, None for no closed node; the type of any other name, None for no other;
        the names that must be there.
    """
    kind = _bare(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        models = [each for each in map(_bare, typing.get_args(kind)) if _is_options(each)]
        if len(models) > 1 and isinstance(node, dict):  # told apart by their name
            named = [
                m for m in models if node.get("name") in typing.get_args(m.model_fields["name"].annotation)
            ]
            models = named or [max(models, key=lambda model: _likeness(model, node))]
        return _fields(models[0], node) if models else (None, None, set())
    if typing.get_origin(kind) is dict:
        return None, typing.get_args(kind)[1], set()
    if not _is_options(kind):
        return None, None, set()
    fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    needed = {field.alias or name for name, field in kind.model_fields.items() if field.is_required()}
    return fields, (Any if kind.model_config.get("extra") == "allow" else None), needed


def _likeness(model: type[Options], node: Mapping[str, Any]) -> tuple[int, int]:
    """How well a node's keys fit options: more that are known, then fewer that are missing."""
    fields = {field.alias or name: field.is_required() for name, field in model.model_fields.items()}
    return len(fields.keys() & node), -sum(fields[name] for name in fields.keys() - node)


def _bare(kind: Any) -> Any:
    return _bare(typing.get_args(kind)[0]) if typing.get_origin(kind) is Annotated else kind


def _is_options(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Options)


def _opened(node: Any, written: Any, path: Path) -> Any:
    """The same tree with every node that names a class as an open one."""
    if isinstance(node, list) or not isinstance(node, dict):
        return node
    if TARGET in node:
        return Open(".".join(path), node, written if isinstance(written, dict) else node)
    below = written if isinstance(written, dict) else {}
    return {name: _opened(value, below.get(name), (*path, str(name))) for name, value in node.items()}


def _references(value: Any, path: Path) -> Iterator[Path]:
    """The keys that interpolations refer to."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _references(inner, (*path, str(name)))
    elif isinstance(value, str):
        for written in _REFERENCE.findall(value):
            reference = written.replace("[", ".").replace("]", "")
            name = reference.lstrip(".")
            levels = len(reference) - len(name)
            yield (*(path[: len(path) - levels] if levels else ()), *name.split("."))


def _at(plain: Mapping[str, Any], path: Path) -> dict[str, Any]:
    node: Any = plain
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _without(plain: Mapping[str, Any], path: Path) -> dict[str, Any]:
    head, *rest = path
    return {
        name: _without(value, tuple(rest)) if name == head and rest and isinstance(value, dict) else value
        for name, value in plain.items()
        if name != head or rest
    }
