"""Plain values as JSON, for processes that do not trust each other.

A value is written as a JSON scalar or as an array whose first item is a tag. Reading makes
exact built-in types and nothing else: no class of the writer ever comes into being, so that
no ``__eq__`` of a program is ever called on the other side. pickle and marshal cannot promise that.

What is written: None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict,
range, deque, Decimal, Fraction, date, time, datetime, timedelta, and the built-in classes by name.
Instances of subclasses (namedtuple, Counter, IntEnum, an int whose ``__eq__`` lies) are written as
the base type's own data; numpy arrays and scalars as ``tolist`` gives them. Anything else is
opaque: it stays where it is and a number, its handle, stands for it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .wire import WireError

MAX_DEPTH = 100  # containers in containers
_MAX_PLAIN_BITS = 1000  # longer integers are written in base 16, which is read in linear time

Node = Any  # what json reads: None, bool, int, float, str or a list of nodes


def dump(node: Node) -> bytes:
    """A node as bytes."""
    return _ENCODER.encode(node).encode("ascii")


def load(data: bytes) -> Node:
    """Bytes as a node; objects of JSON are refused, because they would be hashed here.

    Raises:
        WireError: they are none.
    """
    try:
        return _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise WireError(f"not a message: {type(error).__name__}") from None


def _refuse(pairs: list[tuple[str, Any]]) -> Any:
    raise ValueError("an object")


# json.dumps and json.loads make new ones for each message.
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_DECODER = json.JSONDecoder(object_pairs_hook=_refuse)


def encode(value: Any, opaque: Callable[[Any], int] | None = None, depth: int = 0) -> Node:
    """A value as a node.

    Args:
        value: what to write.
        opaque: gives the handle of an object that is not plain; None where there are no handles.
        depth: how many containers are around it.

    Raises:
        WireError: it is not plain and there are no handles, or it is nested too deeply.
    """
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if value.bit_length() <= _MAX_PLAIN_BITS else ["i", hex(value)]
    if depth >= MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH} levels")
    if (items := _items(value)) is not None:
        tag, content = items
        return [tag, *(encode(item, opaque, depth + 1) for item in content)]
    if isinstance(value, dict):
        pairs = dict.items(value)
        return ["d", *([encode(k, opaque, depth + 1), encode(v, opaque, depth + 1)] for k, v in pairs)]
    if (leaf := _leaf(value)) is not None:
        return leaf
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), opaque, depth + 1)
    # Subclasses of scalars: what the base type stores, whatever the subclass says of itself.
    if isinstance(value, int):
        return encode(int.__int__(value), opaque, depth + 1)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if opaque is None:
        raise WireError(f"{kind.__name__} is no plain value")
    return ["h", opaque(value)]


def _items(value: Any) -> tuple[str, Any] | None:
    for tag, base in _SEQUENCES.items():
        if isinstance(value, base):
            return tag, base.__iter__(value)
    return None


def _leaf(value: Any) -> Node | None:
    match value:
        case bytes() | bytearray():
            return ["b", bytes(value).decode("latin-1")]
        case complex():
            return ["c", complex.__pos__(value).real, complex.__pos__(value).imag]
        case range():
            return ["r", value.start, value.stop, value.step]
        case Decimal():
            return ["D", Decimal.__str__(value)]
        case Fraction():
            return ["F", encode(value.numerator), encode(value.denominator)]
        case datetime():
            return ["dt", datetime.isoformat(value)]
        case date():
            return ["da", date.isoformat(value)]
        case time_of_day():
            return ["ti", time_of_day.isoformat(value)]
        case type() if _CLASSES.get(value.__name__) is value:
            return ["y", value.__name__]
        case timedelta():
            return ["td", value.days, value.seconds, value.microseconds]
    return None


_SEQUENCES: dict[str, type] = {"l": list, "t": tuple, "s": set, "f": frozenset, "q": deque}

# The built-in classes that a test passes to a program (``remove(values, int)``).
_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, object)
}

# What each tag is made of, after its arguments have been read as plain values.
_MAKERS: dict[str, tuple[tuple[type, ...], Callable[..., Any]]] = {
    "i": ((str,), lambda text: int(text, 16)),
    "b": ((str,), lambda text: text.encode("latin-1")),
    "c": ((float, float), complex),
    "r": ((int, int, int), range),
    "D": ((str,), Decimal),
    "dt": ((str,), datetime.fromisoformat),
    "da": ((str,), date.fromisoformat),
    "ti": ((str,), time_of_day.fromisoformat),
    "td": ((int, int, int), timedelta),
    "y": ((str,), lambda name: _CLASSES[name]),
}


def decode(node: Node, handle: Callable[[int], Any] | None = None, depth: int = 0) -> Any:
    """A node as a value of exact built-in types.

    Args:
        node: what ``load`` gave.
        handle: makes what stands for an opaque object; None where there are none.
        depth: how many containers are around it.

    Raises:
        WireError: the node is no value.
    """
    if type(node) is not list:
        return node
    if depth >= MAX_DEPTH or not node or type(node[0]) is not str:
        raise WireError("malformed value")
    tag, *items = node
    try:
        if tag in _SEQUENCES:
            return _SEQUENCES[tag](decode(item, handle, depth + 1) for item in items)
        if tag == "d":
            return {decode(k, handle, depth + 1): decode(v, handle, depth + 1) for k, v in items}
        if tag == "F":
            return Fraction(*(decode(item, None, depth + 1) for item in items))
        if tag == "h" and handle is not None and len(items) == 1 and type(items[0]) is int:
            return handle(items[0])
        if tag in _MAKERS and tuple(map(type, items)) == _MAKERS[tag][0]:
            return _MAKERS[tag][1](*items)
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise WireError(f"malformed value: {type(error).__name__}") from None
    raise WireError("malformed value")


def equal(node: Node, expected: Any) -> bool:
    """Whether a program's answer equals a trusted value, without hashing what the program chose.

    Sequences are equal item by item, tuples counting as lists; scalars by ``==`` of exact types.

    Raises:
        WireError: the node is no value.
    """
    if type(node) is not list:
        return _is_scalar(expected) and node == expected
    if not node or type(node[0]) is not str:
        raise WireError("malformed value")
    tag, *items = node
    if tag in ("l", "t"):
        if not isinstance(expected, list | tuple) or len(items) != len(expected):
            return False
        return all(equal(item, wanted) for item, wanted in zip(items, expected, strict=True))
    if tag in ("s", "f"):
        return isinstance(expected, set | frozenset) and _same_set(items, expected)
    if tag == "d":
        return isinstance(expected, dict) and _same_dict(items, expected)
    if tag in ("q", "h"):
        return False
    value = decode(node)
    try:
        return (type(value) is type(expected) or _is_scalar(expected)) and bool(value == expected)
    except ArithmeticError:  # a signalling NaN refuses to be compared
        return False


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _same_set(items: list[Node], expected: set[Any] | frozenset[Any]) -> bool:
    if len(items) != len(expected):
        return False
    try:
        found = {value for item in items if (value := decode(item)) in expected}
    except TypeError:
        raise WireError("malformed value") from None
    return len(found) == len(expected)


def _same_dict(items: list[Node], expected: dict[Any, Any]) -> bool:
    if len(items) != len(expected):
        return False
    found: set[Any] = set()
    for item in items:
        if type(item) is not list or len(item) != 2:
            raise WireError("malformed value")
        key = decode(item[0])
        try:
            if key not in expected or not equal(item[1], expected[key]):
                return False
        except TypeError:
            raise WireError("malformed value") from None
        found.add(key)
    return len(found) == len(expected)
