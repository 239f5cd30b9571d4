"""Grade function calls by the rules of the Berkeley Function Calling Leaderboard (Patil et al., 2025).

The rules are those of the leaderboard's syntax-tree checker (``bfcl_eval`` 2026.3.23), stated here once more
because that package brings an inference stack of its own. A call is right when

* its name is that of the function, dots included;
* all required parameters are given, and none that the reference does not know;
* each value has the declared type (a whole number will do for a float, a tuple for a list), or that of the
  reference where this is a variable; elements of lists are checked one level down;
* each value equals one of the alternatives; strings do so without regard to case, blanks and ``,./-_*^``;
* a parameter that is left out is marked as optional by an empty string among its alternatives.

Several calls are compared in whatever order: each reference call takes the first fitting one that is left.
Where no function fits the request, nothing must decode as a call; for ``relevance``, something must.

Two things are read that the leaderboard's decoders lose, both in Java: the strings of ``new String[] {...}``
without their quotes, and the entries of ``new HashMap<>() {{ put(...); }}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipo.graders.bfcl_calls import FunctionCall, Language, UndecodableResponse, decode
from pipo.graders.bfcl_literals import TYPES, convert
from pipo.records.problems import Reward

Expectation = Literal["calls", "no call", "any call"]

_IGNORED_IN_STRINGS = re.compile(r"[ ,./\-_*^]")
# Above this a whole number has no floating-point value.
_FLOAT_BITS = 1024
_SHOWN_CHARS = 2000


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter as its function declares it."""

    kind: str
    """Declared type of the parameter."""
    item: str | None
    """Declared type of the elements; None where elements are not checked."""


@dataclass(frozen=True, kw_only=True)
class ExpectedCall:
    """A call that should be made."""

    name: str
    """Name of the function, dots included."""
    parameters: Mapping[str, Parameter]
    """All parameters that the function has."""
    required: tuple[str, ...]
    """Names of the parameters that must be given."""
    alternatives: Mapping[str, Sequence[Any]]
    """Parameter -> the values that are right; an empty string marks it as optional."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a response is compared with."""

    expectation: Expectation
    """Whether these calls, no call, or any call at all is right."""
    calls: tuple[ExpectedCall, ...]
    """Calls that are right, where calls are expected."""
    language: Language
    """Language in which the functions are written."""


def grade(response: str, reference: Reference) -> Reward:
    """1.0 if the response is right, else 0.0 with the first thing that is wrong as feedback."""
    try:
        calls = decode(response, reference.language)
    except UndecodableResponse as error:
        right = reference.expectation == "no call"
        return Reward(
            score=float(right), feedback=None if right else f"No function call can be read: {error}."
        )
    answer = ", ".join(call.name for call in calls)[:_SHOWN_CHARS] or None
    if reference.expectation == "calls":
        problem = mismatch(calls, reference.calls, reference.language)
    elif reference.expectation == "no call":
        problem = "None of the functions fits the request; do not call any." if calls else None
    else:
        problem = None if calls else "One of the functions fits the request; call it."
    return Reward(score=float(problem is None), answer=answer, feedback=problem)


def mismatch(
    calls: Sequence[FunctionCall], expected: Sequence[ExpectedCall], language: Language
) -> str | None:
    """What is wrong with the calls as a whole; None if nothing is."""
    if len(calls) != len(expected):
        return f"{len(calls)} calls were made, {len(expected)} are needed."
    left = list(calls)
    for reference in expected:
        problems = [call_problem(call, reference, language) for call in left]
        if None not in problems:
            return problems[0] if len(expected) == 1 else f"No call of {reference.name} is right."
        left.pop(problems.index(None))
    return None


def call_problem(call: FunctionCall, expected: ExpectedCall, language: Language) -> str | None:
    """What is wrong with one call; None if nothing is."""
    if call.name != expected.name:
        return f"{call.name} is not the function to call."
    for name in expected.required:
        if name not in call.arguments:
            return f"The parameter {name} is required."
    for name, value in call.arguments.items():
        if name not in expected.parameters or name not in expected.alternatives:
            return f"There is no use for a parameter {name}."
        if not value_right(value, expected.parameters[name], expected.alternatives[name], language):
            return f"The value of {name} is not right."
    for name, alternatives in expected.alternatives.items():
        if name not in call.arguments and "" not in alternatives:
            return f"The parameter {name} is needed here."
    return None


def value_right(value: Any, parameter: Parameter, alternatives: Sequence[Any], language: Language) -> bool:
    """Whether a value has an acceptable type and equals one of the alternatives."""
    types = TYPES[language]
    wanted = types[parameter.kind]
    item = types[parameter.item] if parameter.item is not None else None
    value = _typed(value, parameter, language)
    first = next((type(a) for a in alternatives if a != ""), None)
    # Where the reference has another type than the function declares, it stands for a variable.
    variable = first is not None and first is not wanted
    if type(value) is wanted:
        if item is not None and not _items_right(value, alternatives, item):
            return False
    elif type(value) is first:
        variable = True
    else:
        return False
    return value in alternatives if variable else _equals_one(value, alternatives, item)


def _typed(value: Any, parameter: Parameter, language: Language) -> Any:
    """The value as it is compared: text of other languages read, and what Python converts by itself."""
    if language != "Python":
        return convert(value, parameter.kind, parameter.item, language)
    if parameter.kind == "tuple" and isinstance(value, tuple):
        return list(value)
    if parameter.kind == "float" and type(value) is int and value.bit_length() < _FLOAT_BITS:
        return float(value)
    return value


def _equals_one(value: Any, alternatives: Sequence[Any], item: type | None) -> bool:
    """Whether a value of the declared type equals an alternative."""
    if isinstance(value, dict):
        return any(_dict_right(value, a) for a in alternatives)
    if isinstance(value, list):
        # An empty string, which marks the parameter as optional, is as good as an empty list.
        lists = [a for a in alternatives if isinstance(a, list | str)]
        if item is dict:
            return any(_dicts_right(value, a) for a in lists)
        return _plain(value) in [_plain(a) for a in lists]
    if isinstance(value, str):
        return standardized(value) in [standardized(a) for a in alternatives if isinstance(a, str)]
    return value in alternatives


def _items_right(items: Sequence[Any], alternatives: Sequence[Any], wanted: type) -> bool:
    """Whether all elements have the declared type, or the type that one alternative's elements have."""
    for alternative in alternatives:
        if not isinstance(alternative, list):
            return True  # a variable, or an optional parameter: nothing to compare types with
        first = next((type(a) for a in alternative if a != ""), None)
        if all(type(item) in (wanted, first) for item in items):
            return True
    return False


def _dict_right(value: Any, reference: Any) -> bool:
    """Keys as in the reference, of which some may be optional, and each value one of its alternatives."""
    if not isinstance(value, dict) or not isinstance(reference, dict) or not value.keys() <= reference.keys():
        return False
    for key, alternatives in reference.items():
        if key not in value:
            if "" not in alternatives:
                return False
        elif _standard(value[key]) not in [_standard(a) for a in alternatives]:
            return False
    return True


def _dicts_right(values: Sequence[Any], references: Sequence[Any]) -> bool:
    """Dictionaries in the order of the reference."""
    return len(values) == len(references) and all(map(_dict_right, values, references))


def _plain(values: Sequence[Any]) -> list[Any]:
    return [_standard(value) for value in values]


def _standard(value: Any) -> Any:
    return standardized(value) if isinstance(value, str) else value


def standardized(text: str) -> str:
    """A string as it is compared: ``April 1, 2024`` equals ``april 1 2024``."""
    return _IGNORED_IN_STRINGS.sub("", text).lower().replace("'", '"')
