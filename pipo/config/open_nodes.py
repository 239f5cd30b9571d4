"""Open nodes of the configuration: a class named by ``_target_``, checked and built.

Everything in a node is checked against the annotations of what it names before anything is built: missing
keys, stray keys and wrong types each give one error that says which key and what it should be.
"""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

import hydra.utils
import pydantic
from hydra.errors import InstantiationException

from pipo.config.explain import explained
from pipo.errors import ConfigError

Kind = TypeVar("Kind")
TARGET, PARTIAL = "_target_", "_partial_"


@dataclass(frozen=True)
class Open:
    """A node that names its class."""

    key: str
    """Key of the node in the configuration."""
    node: Mapping[str, Any]
    """Values of the node, with all references resolved."""
    written: Mapping[str, Any]
    """The node as the files have it, to name the key that a value comes from."""

    @property
    def target(self) -> Any:
        """The dotted path that it names."""
        return self.node[TARGET]

    def makes(self, kind: type[Any]) -> bool:
        """Whether it names a class of this kind."""
        target = target_of(self.target, self.key)
        return inspect.isclass(target) and issubclass(target, kind)

    @overload
    def build(self, **extra: Any) -> Any: ...

    @overload
    def build(self, kind: type[Kind], **extra: Any) -> Kind: ...

    def build(self, kind: type[Any] = object, **extra: Any) -> Any:
        """The object that it describes.

        Args:
            kind: what must come out.
            **extra: further arguments that only code can supply.

        Raises:
            ConfigError: naming the key.
        """
        made = _made(self.key, self.node, self.written, extra)
        if not isinstance(made, kind):
            raise ConfigError(f"{self.key}._target_: {self.target} makes no {kind.__name__}")
        return made


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
        return hydra.utils.instantiate({TARGET: name, PARTIAL: True}).func
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = " ".join(str(cause).partition("\nfull_key")[0].split())
        raise ConfigError(f"{key}._target_: {name} cannot be used ({said})") from error


def _made(key: str, node: Mapping[str, Any], written: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
    target = target_of(node[TARGET], key)
    hints, accepted, required = _signature(target)
    later = node.get(PARTIAL, False) is True
    given = {name: value for name, value in node.items() if name not in (TARGET, PARTIAL)}
    for name, value in given.items():
        if isinstance(value, Mapping) and TARGET in value:
            inner = written.get(name)
            given[name] = _made(f"{key}.{name}", value, inner if isinstance(inner, Mapping) else value, {})
            hints[name] = Any  # a protocol is often what is wanted, which cannot be looked for
    fields: dict[str, Any] = {}
    for name in given if accepted is None else sorted(accepted - set(extra)):
        needed = name in required and not later
        fields[name] = (hints.get(name, Any), ... if needed else None)
    try:
        values = validated(fields, given)
    except pydantic.ValidationError as error:
        takes = sorted(fields)
        raise explained(error, key, written, takes=takes, taker=str(node[TARGET])) from error
    try:
        return partial(target, **values, **extra) if later else target(**values, **extra)
    except pydantic.ValidationError as error:
        raise explained(error, key, written) from error
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{key}: {error}") from error
    except Exception as error:
        if str(node[TARGET]).startswith("pipo."):
            raise  # a defect of ours keeps its trace
        said = " ".join(str(error).split())
        raise ConfigError(f"{key}: {node[TARGET]} cannot be made ({said})") from error


def validated(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values, checked against annotations, closed nodes among them built.

    Args:
        fields: name -> annotation and default, ``...`` for none.
        given: name -> value.

    Raises:
        pydantic.ValidationError: one does not fit, is missing or is not among the fields.
    """
    config = pydantic.ConfigDict(
        strict=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=()
    )
    # Names of one's own may be names of pydantic's: the fields stand under neutral ones.
    names = {name: f"field_{number}" for number, name in enumerate(fields)}
    neutral: dict[str, Any] = {
        names[name]: (typing.Annotated[hint, pydantic.Field(alias=name)], default)
        for name, (hint, default) in fields.items()
    }
    model = pydantic.create_model("Arguments", __config__=config, **neutral)
    plain = {
        name: tuple(v) if isinstance(v, list) and _wants_tuple(fields, name) else v
        for name, v in given.items()
    }
    checked = model.model_validate(plain)
    return {name: getattr(checked, names[name]) for name in given}


def _wants_tuple(fields: Mapping[str, Any], name: str) -> bool:
    hint = fields[name][0] if name in fields else None
    return any(typing.get_origin(each) is tuple for each in (hint, *typing.get_args(hint)))


def _signature(target: Callable[..., Any]) -> tuple[dict[str, Any], set[str] | None, set[str]]:
    """Annotations, accepted names (None: anything) and required names.

    ``**kwargs`` of a constructor stand for the parent class's own arguments.
    """
    if inspect.isclass(target) and issubclass(target, pydantic.BaseModel):
        return {}, None, set()  # checks itself
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
            hints = {**typing.get_type_hints(function, include_extras=True), **hints}
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
