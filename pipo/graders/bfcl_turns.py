"""Read the calls of a step in BFCL's multi-turn categories: the text that is executed, as on the leaderboard.

Nothing is run here. Where the leaderboard's decoder and this reading differ, a response is odd: it evaluates
any arithmetic (``"-" * 3``, which is no call here) and takes every sign for a minus (``+1``, ``not True``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipo.graders.bfcl_calls import UndecodableResponse, decode


def executable(response: str) -> tuple[str, ...]:
    """The calls of a response, each as the text of a Python call; none if it makes no readable call."""
    try:
        return tuple(_call(call.name, call.arguments) for call in decode(response, "Python"))
    except UndecodableResponse:
        return ()


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    # A dictionary of further arguments (``**``) has no name; the leaderboard writes None, which is no Python.
    written = (f"{'None' if key == '**' else key}={_value(value)}" for key, value in arguments.items())
    return f"{name}({', '.join(written)})"


def _value(value: Any) -> str:
    """A value as the leaderboard writes it: a dictionary of nothing but dictionaries is taken for a call.

    Raises:
        UndecodableResponse: the dictionary is empty, at which the leaderboard's decoder fails.
    """
    if not isinstance(value, dict):
        return repr(value)
    if not value:
        raise UndecodableResponse("an empty dictionary")
    if all(isinstance(item, dict) for item in value.values()):
        return _call(*next(iter(value.items())))
    return "{" + ", ".join(f"'{key}': {_value(item)}" for key, item in value.items()) + "}"
