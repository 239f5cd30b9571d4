"""Turn pydantic's validation errors into one line: key, wanted, got, near miss."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from pipo.config.near_miss import near
from pipo.errors import ConfigError

_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
# pydantic's name of what is wrong -> what is wanted; of numbers, with the bounds that it names.
_WANTED = {
    "int_type": "int",
    "int_from_float": "int",
    "float_type": "float",
    "bool_type": "bool",
    "string_type": "str",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number >= {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number <= {le:g}",
    "literal_error": "{expected}",
    "dataclass_exact_type": "a node with _target_",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
}


def explained(error: ValidationError, key: str, written: Any) -> ConfigError:
    """The first thing that is wrong.

    Args:
        error: of pydantic.
        key: where the value stands that it is about; empty for the whole configuration.
        written: the value as the files have it, with references.
    """
    found = error.errors(include_url=False)
    first = next((each for each in found if each["type"] in _UNKNOWN), found[0])
    path = _path(first["loc"], written)
    where = ".".join([*([key] if key else []), *path])
    node = where.rpartition(".")[0]
    if first["type"] in _UNKNOWN:
        absent = [str(each["loc"][-1]) for each in found if each["type"] == "missing"]
        said = f"; did you mean {node}.{meant}?" if (meant := near(path[-1], absent)) else ""
        return ConfigError(f"{where}: unknown key{said}")
    if first["type"] == "missing":
        return ConfigError(f"{node}: missing {path[-1]}")
    if first["type"] == "value_error":
        said = first.get("ctx", {})["error"]
        return ConfigError(f"{where}: {said}" if where else str(said))
    if first["input"] is None and first["type"] == "string_type":
        return ConfigError(f"{where} has no value; set it, for example {where}=...")
    alike = [each for each in found if _path(each["loc"], written) == path]
    wanted = " or ".join(dict.fromkeys(_wanted(each) for each in alike))
    return ConfigError(f"{_source_of(where, key, path, written)}: expected {wanted}, got {first['input']!r}")


def _source_of(where: str, key: str, path: Sequence[str], written: Any) -> str:
    """The key that a value comes from: of a reference to another key, that one."""
    value: Any = written
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    match = _INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return where
    reference = match[1].lstrip(".")
    levels = len(match[1]) - len(reference)
    if not levels:
        return reference
    return ".".join([*where.split(".")[:-levels], reference])


def _wanted(each: Any) -> str:
    text = _WANTED.get(each["type"])
    if text is None:
        said = each["msg"].removeprefix("Input should be ")
        return said[:1].lower() + said[1:]
    return text.format(**each.get("ctx", {}))


def _path(loc: Sequence[int | str], written: Any) -> list[str]:
    """Where an error is, without what pydantic adds for the branches of a union."""
    path: list[str] = []
    node: Any = written
    for number, part in enumerate(loc):
        if isinstance(node, Mapping):
            if part not in node and number + 1 < len(loc):
                continue  # the name of a branch
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            break
        path.append(str(part))
    return path
