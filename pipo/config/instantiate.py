"""Configuration nodes to objects, refusing a bad entry by its name.

A node with ``_target_`` is checked against the signature of what it names before anything is built: missing
keys, stray keys and wrong types each give one error that says which key and what it should be.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import hydra.utils
import pydantic
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf

from pipo.errors import ConfigError

# What Hydra reads of a node itself.
_OF_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_")
Options = TypeVar("Options", bound=pydantic.BaseModel)
_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")


def instantiate(cfg: DictConfig, key: str, kind: type[Any] = object, **extra: Any) -> Any:
    """Build the object that the node at ``key`` describes.

    Args:
        cfg: the whole configuration.
        key: dotted path of a node with ``_target_``.
        kind: what must come out.
        **extra: further arguments that only code can supply.

    Raises:
        ConfigError: naming the key.
    """
    node = OmegaConf.select(cfg, key)
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{key}: a node with _target_ is needed, got {node!r}")
    _check(node, key, extra)
    try:
        made = hydra.utils.instantiate(node, **extra)
    except InstantiationException as error:
        raise _user_error(key, str(node["_target_"]), error) from error
    if not isinstance(made, kind):
        raise ConfigError(f"{key}._target_: {node['_target_']} makes no {kind.__name__}")
    return made


def construct(target: Callable[..., Any], cfg: DictConfig, keys: Mapping[str, str], **extra: Any) -> Any:
    """Call ``target`` with configuration values.

    Args:
        target: class or function with annotated keyword arguments.
        cfg: the whole configuration.
        keys: argument name -> dotted path of the value.
        **extra: further arguments that only code can supply.

    Raises:
        ConfigError: naming the key.
    """
    hints = _hints(target)
    values: dict[str, Any] = {}
    for argument, key in keys.items():
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if OmegaConf.is_missing(*_parent(cfg, key)):
            raise ConfigError(f"{key} has no value; set it, for example {key}=...")
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        values[argument] = validated(key, plain, hints.get(argument, Any))
    try:
        return target(**values, **extra)
    except ValueError as error:
        section = next(iter(keys.values())).rpartition(".")[0]
        raise ConfigError(f"{section}: {error}" if section else str(error)) from error


def read_options(cfg: DictConfig, key: str, kind: type[Options]) -> Options:
    """The node at ``key`` as its frozen options, without its ``name``.

    Raises:
        ConfigError: naming the first key that is unknown, missing or out of its range.
    """
    node = OmegaConf.to_container(cfg[key], resolve=True)
    assert isinstance(node, dict)
    given = {str(name): value for name, value in node.items() if name != "name"}
    try:
        return kind.model_validate(given)
    except pydantic.ValidationError as error:
        # An unknown key may be the missing one with a slip in it.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        name, said = ".".join(map(str, first["loc"][:1])), first["msg"].removeprefix("Input ")
        takes = {field.alias or own for own, field in kind.model_fields.items()}
        if first["type"] == "missing":
            raise ConfigError(f"{key}.{name} has no value; set it, for example {key}.{name}=...") from error
        if first["type"] != "extra_forbidden":
            raise ConfigError(f"{key}.{name}: {said}, got {first['input']!r}") from error
        near = difflib.get_close_matches(name, takes, n=1)
        meant = f"did you mean {key}.{near[0]}?" if near else f"{key} takes {', '.join(sorted(takes))}"
        raise ConfigError(f"{key}.{name}: unknown key; {meant}") from error


def target_of(name: Any, key: str) -> Callable[..., Any]:
    """What a ``_target_`` names.

    Args:
        name: dotted path of a class or a function.
        key: of the node.

    Raises:
        ConfigError: it is not there, cannot be called, or is one that Hydra does not let a file call.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{key}._target_: the dotted path of a class or function is needed, got {name!r}")
    try:
        return hydra.utils.instantiate({"_target_": name, "_partial_": True}).func
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = " ".join(str(cause).partition("\nfull_key")[0].split())
        raise ConfigError(f"{key}._target_: {name} cannot be used ({said})") from error


def _parent(cfg: DictConfig, key: str) -> tuple[DictConfig, str]:
    head, _, tail = key.rpartition(".")
    return (OmegaConf.select(cfg, head) if head else cfg), tail


def _check(node: DictConfig, key: str, extra: Mapping[str, Any]) -> None:
    """Compare a node with the signature of its target, and its children with theirs."""
    if "_target_" not in node:
        raise ConfigError(f"{key}: _target_ is missing, so there is nothing to build")
    target = target_of(node["_target_"], key)
    hints, accepted, required = _signature(target)
    given = [str(name) for name in node if name not in _OF_HYDRA]
    for name in given:
        if accepted is not None and name not in accepted:
            known = ", ".join(sorted(accepted - set(extra)))
            near = difflib.get_close_matches(name, accepted - set(extra), n=1)
            meant = f"did you mean {key}.{near[0]}? " if near else ""
            raise ConfigError(f"{key}.{name}: unknown key; {meant}{node['_target_']} takes {known}")
        _check_value(node, key, name, hints.get(name, Any))
    missing = required - set(given) - set(extra)
    if missing and not node.get("_partial_", False):
        raise ConfigError(f"{key}: missing {', '.join(sorted(missing))} (required by {node['_target_']})")


def _check_value(node: DictConfig, key: str, name: str, hint: Any) -> None:
    source = OmegaConf.to_container(node, resolve=False)
    assert isinstance(source, dict)
    written = source[name]
    match = _INTERPOLATION.fullmatch(written) if isinstance(written, str) else None
    shown = _absolute(match.group(1), key) if match else f"{key}.{name}"
    if OmegaConf.is_missing(node, name):
        raise ConfigError(f"{shown} has no value; set it, for example {shown}=...")
    value = node[name]
    if isinstance(value, DictConfig) and "_target_" in value:
        _check(value, f"{key}.{name}", {})
        return
    if isinstance(value, DictConfig | ListConfig):
        value = OmegaConf.to_container(value, resolve=True)
    validated(shown, value, hint)


def _absolute(reference: str, key: str) -> str:
    """The key that an interpolation inside the node at ``key`` refers to; leading dots are relative."""
    path = reference.lstrip(".")
    levels = len(reference) - len(path)
    if not levels:
        return reference
    parents = key.split(".")
    return ".".join([*parents[: len(parents) - levels + 1], path])


def validated(key: str, value: Any, hint: Any) -> Any:
    """The value if it is of the annotated type (an integer passes for a float), else a ConfigError."""
    config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    alternatives = (hint, *typing.get_args(hint))  # the second for an optional tuple
    if isinstance(value, list) and any(typing.get_origin(option) is tuple for option in alternatives):
        value = tuple(value)  # YAML has no tuples
    try:
        if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
            return value
        return pydantic.TypeAdapter(hint, config=config).validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        wanted = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
        wanted = wanted.replace("typing.", "").replace("collections.abc.", "")
        raise ConfigError(f"{key}: expected {wanted}, got {value!r}") from error


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    return _signature(target)[0]


def _signature(target: Callable[..., Any]) -> tuple[dict[str, Any], set[str] | None, set[str]]:
    """Annotations, accepted names (None: anything) and required names.

    ``**kwargs`` of a constructor stand for the parent class's own arguments.
    """
    hints: dict[str, Any] = {}
    accepted: set[str] = set()
    required: set[str] = set()
    owners = list(target.__mro__) if inspect.isclass(target) else [target]
    for owner in owners:
        function = owner.__dict__.get("__init__") if inspect.isclass(owner) else owner
        if not inspect.isfunction(function):
            continue
        # Other libraries may import their annotations for type checkers only; they check their own arguments.
        with contextlib.suppress(NameError):
            hints = {**typing.get_type_hints(function), **hints}
        forwards = False
        for parameter in list(inspect.signature(function).parameters.values()):
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                forwards = True
            elif parameter.name != "self" and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                accepted.add(parameter.name)
                if parameter.default is inspect.Parameter.empty:
                    required.add(parameter.name)
        if not forwards:
            return hints, accepted, required
    return hints, None, required


def _user_error(key: str, target: str, error: InstantiationException) -> Exception:
    """The cause when it is about the configuration; a defect of ours keeps its trace."""
    cause = error.__cause__
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ValueError):
        return ConfigError(f"{key}: {cause}")
    if isinstance(cause, Exception) and target.startswith("pipo."):
        return cause
    # Hydra's own refusal, or a class of somebody else that does not take what it was given.
    said = cause if isinstance(cause, Exception) else str(error).partition("\nfull_key")[0]
    return ConfigError(f"{key}: {target} cannot be made ({' '.join(str(said).split())})")
