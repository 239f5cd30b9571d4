"""Parse values of Java and JavaScript calls into what BFCL compares.

Text that is not a literal of the wanted type stays text, because it may be the name of a variable, which is
how many reference answers of these categories look.
"""

from __future__ import annotations

import re
from typing import Any

from pipo.graders.bfcl_calls import Language, UndecodableResponse, split_top, unquoted

_SUFFIXES = {("Java", "long"): "L", ("Java", "float"): "f", ("JavaScript", "Bigint"): "n"}

# What a value of each declared type is compared as.
PYTHON_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
JAVA_TYPES: dict[str, type] = {
    "byte": int,
    "short": int,
    "integer": int,
    "long": int,
    "float": float,
    "double": float,
    "boolean": bool,
    "char": str,
    "String": str,
    "any": str,
    "Array": list,
    "ArrayList": list,
    "Queue": list,
    "Stack": list,
    "Set": set,
    "HashMap": dict,
    "Hashtable": dict,
}
JAVASCRIPT_TYPES: dict[str, type] = {
    "String": str,
    "integer": int,
    "float": float,
    "Bigint": int,
    "Boolean": bool,
    "dict": dict,
    "array": list,
    "any": str,
}
TYPES: dict[Language, dict[str, type]] = {
    "Python": PYTHON_TYPES,
    "Java": JAVA_TYPES,
    "JavaScript": JAVASCRIPT_TYPES,
}

_INTEGER = re.compile(r"-?[0-9]{1,4000}")  # more digits than Python converts are no argument
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_SCIENTIFIC = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def convert(text: str, kind: str, item: str | None, language: Language) -> Any:
    """The value of an expression that should be of a declared type.

    Args:
        text: the expression.
        kind: declared type.
        item: declared type of the elements, for a list.
        language: Java or JavaScript.
    """
    try:
        return _java(text, kind, item) if language == "Java" else _javascript(text, kind, item)
    except (UndecodableResponse, RecursionError):  # a literal that is broken off, or nested without end
        return text


def _java(text: str, kind: str, item: str | None) -> Any:
    match kind:
        case "byte" | "short" | "integer":
            return _whole(text, "")
        case "long":
            return _whole(text, "lL")
        case "float":
            return _fraction(text, "fF", _SCIENTIFIC)
        case "double":
            return _fraction(text, "", _SCIENTIFIC)
        case "boolean":
            return _truth(text)
        case "Array":
            return _java_array(text, item)
        case "ArrayList":
            return _java_list(text, item)
        case "HashMap":
            return _java_map(text)
    return text


def _javascript(text: str, kind: str, item: str | None) -> Any:
    match kind:
        case "String":
            return unquoted(text)
        case "integer":
            return _whole(text, "")
        case "Bigint":
            return _whole(text, "n")
        case "float":
            return _fraction(text, "", _DECIMAL)
        case "Boolean":
            return _truth(text)
        case "array":
            return _javascript_array(text.strip(), item)
        case "dict":
            return _javascript_object(text.strip())
    return text


def _whole(text: str, suffixes: str) -> Any:
    """An integer; one of the suffixes must follow if there are any."""
    digits = text[:-1] if suffixes and text[-1:] in suffixes else text
    wanted = not suffixes or len(digits) < len(text)
    return int(digits) if wanted and _INTEGER.fullmatch(digits) else text


def _fraction(text: str, suffixes: str, form: re.Pattern[str]) -> Any:
    """A floating-point number; one of the suffixes must follow if there are any."""
    digits = text[:-1] if suffixes and text[-1:] in suffixes else text
    wanted = not suffixes or len(digits) < len(text)
    return float(digits) if wanted and form.fullmatch(digits) else text


def _truth(text: str) -> Any:
    return {"true": True, "false": False}.get(text, text)


_GENERIC = r"<[\w\s,.<>?\[\]]*>"
_ARRAY = re.compile(r"new\s+[\w.]+\s*\[\s*\]\s*\{(.*)\}", re.DOTALL)
_AS_LIST = re.compile(rf"new\s+ArrayList{_GENERIC}\s*\(\s*Arrays\.asList\((.*)\)\s*\)", re.DOTALL)
_EMPTY_LIST = re.compile(rf"new\s+ArrayList{_GENERIC}\s*\(\s*\)")
_ADDING = re.compile(rf"new\s+ArrayList{_GENERIC}\s*\(\s*\)\s*\{{\s*\{{(.*)\}}\s*\}}", re.DOTALL)
_ADD = re.compile(r"add\((.*)\)", re.DOTALL)
_EMPTY_MAP = re.compile(rf"new\s+HashMap{_GENERIC}\s*\(\s*\)\s*(?:\{{\s*\}})?")
_PUTTING = re.compile(rf"new\s+HashMap{_GENERIC}\s*\(\s*\)\s*\{{\s*\{{(.*)\}}\s*\}}", re.DOTALL)
_PUT = re.compile(r"put\((.*)\)", re.DOTALL)


def _java_array(text: str, item: str | None) -> Any:
    match = _ARRAY.fullmatch(text)
    return text if match is None else [_java_item(e, item) for e in split_top(match[1], ",")]


def _java_list(text: str, item: str | None) -> Any:
    if _EMPTY_LIST.fullmatch(text):
        return []
    if (match := _AS_LIST.fullmatch(text)) is not None:
        return [_java_item(e, item) for e in split_top(match[1], ",")]
    if (match := _ADDING.fullmatch(text)) is not None:
        added = [_ADD.fullmatch(statement) for statement in split_top(match[1], ";")]
        if None not in added:
            return [_java_item(add[1].strip(), item) for add in added if add is not None]
    return text


def _java_map(text: str) -> Any:
    if _EMPTY_MAP.fullmatch(text):
        return {}
    match = _PUTTING.fullmatch(text)
    if match is None:
        return text
    entries: dict[str, Any] = {}
    for statement in split_top(match[1], ";"):
        put = _PUT.fullmatch(statement)
        pair = split_top(put[1], ",") if put is not None else []
        if len(pair) != 2:
            return text
        entries[unquoted(pair[0])] = _java_item(pair[1], None)
    return entries


def _java_item(text: str, item: str | None) -> Any:
    """An element: by its declared type, or by its looks where that is unknown or ``any``."""
    if item in ("String", "char"):
        return unquoted(text)
    if item is not None and item != "any":
        return _java(text, item, None)
    marked = text[-1:] in tuple("lLfF") and _SCIENTIFIC.fullmatch(text[:-1]) is not None
    return _by_looks(text[:-1] if marked else text)


def _javascript_array(text: str, item: str | None) -> Any:
    if text.startswith("[") and text.endswith("]"):
        content = text[1:-1]
    elif (match := re.fullmatch(r"new\s+Array\s*\((.*)\)", text, re.DOTALL)) is not None:
        content = match[1]
    else:
        return text
    pieces = split_top(content, ",")
    return [_javascript_looks(p) if item in (None, "any") else _javascript_item(p, item) for p in pieces]


def _javascript_item(text: str, item: str) -> Any:
    """An element of a declared type; one that is an array itself is read as such."""
    return _javascript_array(text, None) if text.startswith("[") else _javascript(text, item, None)


def _javascript_object(text: str) -> Any:
    if not (text.startswith("{") and text.endswith("}")):
        return text
    entries: dict[str, Any] = {}
    for piece in split_top(text[1:-1], ","):
        pair = split_top(piece, ":")
        if len(pair) != 2:
            return text
        entries[unquoted(pair[0])] = _javascript_looks(pair[1])
    return entries


def _javascript_looks(text: str) -> Any:
    if text.startswith("["):
        return _javascript_array(text, None)
    if text.startswith("{"):
        return _javascript_object(text)
    return _by_looks(text)


def _by_looks(text: str) -> Any:
    """A truth value, a string or a number, whichever the text looks like."""
    if text in ("true", "false"):
        return text == "true"
    if (content := unquoted(text)) != text:
        return content
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _SCIENTIFIC.fullmatch(text) else text


def express(value: Any, kind: str, item: str | None, language: Language) -> str:
    """The text of a reference value in the language of its function; ``convert`` reads it back.

    Args:
        value: the value; text where a list, a dictionary or a number is declared is the name of a variable.
        kind: declared type.
        item: declared type of the elements, for a list.
        language: of the function.
    """
    if language == "Python":
        return repr(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # Quotes are taken off again before anything else is looked at, so they never hurt.
        return f"'{value}'" if kind == "char" else value if '"' in value else f'"{value}"'
    if isinstance(value, list):
        items = ", ".join(express(element, item or "any", None, language) for element in value)
        if language == "JavaScript":
            return f"[{items}]"
        return f"new Object[] {{{items}}}" if kind == "Array" else f"new ArrayList<>(Arrays.asList({items}))"
    if isinstance(value, dict):
        entries = [(f'"{key}"', express(entry, "any", None, language)) for key, entry in value.items()]
        if language == "JavaScript":
            return f"{{{', '.join(f'{key}: {entry}' for key, entry in entries)}}}"
        puts = " ".join(f"put({key}, {entry});" for key, entry in entries)
        return f"new HashMap<String, Object>() {{{{ {puts} }}}}" if entries else "new HashMap<>()"
    return f"{value}{_SUFFIXES.get((language, kind), '')}"
