"""Open nodes of the configuration: a class named by ``_target_``, checked and built.

Everything in a node is checked against the annotations of what it names before anything is built: missing
keys, stray keys and wrong types each give one error that says which key and what it should be.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

import hydra.utils
import pydantic
from hydra.errors import InstantiationException
from pydantic_core import SchemaError

from pipo.config.explain import explained
from pipo.config.near_miss import near
from pipo.errors import ConfigError

Kind = TypeVar("Kind")
TARGET, PARTIAL = "_target_", "_partial_"
# Words of Hydra's own way to build objects, which does more than is done here.
_OF_HYDRA = ("_args_", "_convert_", "_recursive_")
_CONFIG = pydantic.ConfigDict(arbitrary_types_allowed=True)


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
        said = _not_there(name) or " ".join(str(cause).partition("\nfull_key")[0].split())
        raise ConfigError(f"{key}._target_: {name} cannot be used ({said})") from error


def _not_there(name: str) -> str | None:
    """What a module does not have, with what may have been meant; None where there is no such module."""
    above, _, last = name.rpartition(".")
    while above:
        if (found := sys.modules.get(above)) is not None:  # looking for the class has imported it
            if hasattr(found, last):
                return None
            meant = near(last, [each for each in vars(found) if not each.startswith("_")])
            return f"{above} has no {last}" + (f"; did you mean {above}.{meant}?" if meant else "")
        above, _, last = above.rpartition(".")
    return None


def _made(key: str, node: Mapping[Any, Any], written: Mapping[Any, Any], extra: Mapping[str, Any]) -> Any:
    target, taker = target_of(node[TARGET], key), str(node[TARGET])
    hints, accepted, required = _signature(target)
    later = validated(f"{key}.{PARTIAL}", node.get(PARTIAL, False), bool)
    given = {name: value for name, value in node.items() if name not in (TARGET, PARTIAL)}
    _check_names(key, taker, given, None if accepted is None else accepted - set(extra))
    if (missing := sorted(required - set(given) - set(extra))) and not later:
        raise ConfigError(f"{key}: missing {', '.join(missing)} (required by {taker})")
    values = {}
    for name, value in given.items():
        built = _with_objects(f"{key}.{name}", value, written.get(name))
        # Of an object, a protocol is often what is wanted, which cannot be looked for.
        hint = hints.get(name, Any) if built is value else Any
        values[name] = validated(f"{key}.{name}", built, hint, written.get(name))
    try:
        return partial(target, **values, **extra) if later else target(**values, **extra)
    except pydantic.ValidationError as error:
        raise explained(error, key, written) from error
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    except Exception as error:  # a constructor of somebody else may raise whatever it likes
        if taker.startswith("pipo."):
            raise  # a defect of ours keeps its trace
        said = " ".join(str(error).split())
        raise ConfigError(f"{key}: {taker} cannot be made ({said})") from error


def _check_names(key: str, taker: str, given: Iterable[Any], accepted: set[str] | None) -> None:
    for name in given:
        if not isinstance(name, str):
            raise ConfigError(f"{key}.{name}: an argument has a name, got the number {name}")
        if name in _OF_HYDRA or (accepted is not None and name not in accepted):
            takes = sorted(accepted or ())
            said = f"did you mean {key}.{meant}? " if (meant := near(name, takes)) else ""
            raise ConfigError(f"{key}.{name}: unknown key; {said}{taker} takes {', '.join(takes)}")


def _with_objects(key: str, value: Any, written: Any) -> Any:
    """The value with every node below it that names a class built; itself, where there is none."""
    below = written if isinstance(written, Mapping) else {}
    if isinstance(value, Mapping) and TARGET in value:
        return _made(key, value, below or value, {})
    if isinstance(value, Mapping):
        made = {name: _with_objects(f"{key}.{name}", each, below.get(name)) for name, each in value.items()}
        return made if any(made[name] is not value[name] for name in made) else value
    if isinstance(value, list):
        listed = [_with_objects(f"{key}.{number}", each, None) for number, each in enumerate(value)]
        return listed if any(new is not old for new, old in zip(listed, value, strict=True)) else value
    return value


def validated(key: str, value: Any, hint: Any, written: Any = None, *, exact: bool = False) -> Any:
    """A value if it is what an annotation says, with closed nodes in it built.

    A number is no text and a text no number; what YAML cannot write (paths, sets, tuples, times, members of
    an enumeration) is made of what it can.

    Args:
        key: where it stands.
        value: with all references resolved.
        hint: the annotation; what cannot be looked for passes.
        written: the value as the file has it.
        exact: whether nothing at all is converted.

    Raises:
        ConfigError: naming the key.
    """
    try:
        adapter = pydantic.TypeAdapter(hint, config=None if _is_model(hint) else _CONFIG)
    except (pydantic.PydanticUserError, SchemaError, TypeError, AttributeError):
        return value
    tuples = any(typing.get_origin(each) is tuple for each in (hint, *typing.get_args(hint)))
    plain = tuple(value) if isinstance(value, list) and tuples else value
    try:
        return adapter.validate_python(plain, strict=exact or _is_simple(hint) or None)
    except pydantic.ValidationError as error:
        raise explained(error, key, written) from error


def _is_model(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, pydantic.BaseModel)


def _is_simple(hint: Any, *, outermost: bool = True) -> bool:
    """Whether YAML writes all that an annotation speaks of, so that nothing has to be converted."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return True
    if origin is typing.Annotated:
        return _is_simple(inner[0], outermost=outermost)
    if origin in (set, frozenset) or (origin is tuple and not outermost):
        return False
    if inner:
        union = origin in (typing.Union, types.UnionType)
        return all(each is Ellipsis or _is_simple(each, outermost=outermost and union) for each in inner)
    return hint in (int, float, bool, str, type(None), Any) or _is_model(hint)


def _signature(target: Callable[..., Any]) -> tuple[dict[str, Any], set[str] | None, set[str]]:
    """Annotations, accepted names (None: anything) and required names.

    ``**kwargs`` of a constructor stand for the parent class's own arguments. What a parent of another
    package needs is not asked for, because the constructor may supply it.
    """
    if inspect.isclass(target) and issubclass(target, pydantic.BaseModel):
        fields = {field.alias or name: field for name, field in target.model_fields.items()}
        names = None if target.model_config.get("extra") == "allow" else set(fields)
        return {}, names, {name for name, field in fields.items() if field.is_required()}
    hints: dict[str, Any] = {}
    accepted: set[str] = set()
    required: set[str] = set()
    owners = list(target.__mro__) if inspect.isclass(target) else [target]
    ours = ("pipo.", target.__module__)
    for owner in owners:
        function = owner.__dict__.get("__init__") if inspect.isclass(owner) else owner
        if not inspect.isfunction(function):
            continue
        hints = {**_hints(function), **hints}
        forwards = False
        parameters = list(inspect.signature(function).parameters.values())
        for parameter in parameters[1:] if inspect.isclass(owner) else parameters:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                forwards = True
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                accepted.add(parameter.name)
                if parameter.default is inspect.Parameter.empty and owner.__module__.startswith(ours):
                    required.add(parameter.name)
                elif parameter.default is None and parameter.name in hints:
                    hints[parameter.name] = hints[parameter.name] | None
        if not forwards:
            return hints, accepted, required
    return hints, None, required


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that can be evaluated.

    Other libraries may import theirs for type checkers only; they check their own arguments.
    """
    hints = {}
    for name, annotation in function.__annotations__.items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(NameError, AttributeError, SyntaxError, TypeError):
            hints |= typing.get_type_hints(one, globalns=function.__globals__, include_extras=True)
    return hints
