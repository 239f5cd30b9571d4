"""Parse function calls from a response, in the syntax of the Berkeley Function Calling Leaderboard.

``[f(a=1), pkg.g(b="x")]``, with or without the brackets. Values of Python calls are read from the syntax tree
and never run; values of Java and JavaScript calls stay text, for ``bfcl_literals`` to interpret.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipo.graders.thought import answer_part

Language = Literal["Python", "Java", "JavaScript"]


class UndecodableResponse(ValueError):
    """A response is not a sequence of calls. The message says what is in the way."""


@dataclass(frozen=True, kw_only=True)
class FunctionCall:
    """One call."""

    name: str
    """Name of the function, with its dots."""
    arguments: Mapping[str, Any]
    """Keyword arguments; Python values, or text for Java and JavaScript."""


def decode(response: str, language: Language) -> tuple[FunctionCall, ...]:
    """The calls of a response.

    A thought (``pipo/graders/thought.py``) is left aside; so are backticks around the whole. Any other text
    besides the calls makes the response undecodable, as on the leaderboard.

    Raises:
        UndecodableResponse: it is anything but a sequence of calls.
    """
    text = answer_part(response).strip("`\n ")
    text = text if text.startswith("[") else "[" + text
    text = text if text.endswith("]") else text + "]"
    if language == "Python":
        return _python_calls(text.strip().strip("'"))
    return tuple(_text_calls(text[1:-1]))


def _python_calls(text: str) -> tuple[FunctionCall, ...]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings that a model wrote
            tree = ast.parse(text, mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        return tuple(_python_call(node) for node in nodes)
    except UndecodableResponse:
        raise
    except (RecursionError, MemoryError) as error:  # the parser's own limits on nesting
        raise UndecodableResponse("nested too deeply") from error
    except (SyntaxError, ValueError) as error:
        raise UndecodableResponse(f"not Python syntax ({error})") from error


def _python_call(node: ast.expr) -> FunctionCall:
    if not isinstance(node, ast.Call):
        raise UndecodableResponse(f"{_shown(node)} is not a call")
    # Positional arguments count for nothing: without a name there is no telling what they stand for.
    arguments = {keyword.arg or "**": _python_value(keyword.value) for keyword in node.keywords}
    return FunctionCall(name=ast.unparse(node.func), arguments=arguments)


def _python_value(node: ast.expr) -> Any:
    """The value of a literal; names, indexing and bare calls, which stand for variables, as text."""
    match node:
        case ast.Constant(value=value):
            return "..." if value is Ellipsis else value
        case ast.List(elts=items):
            return [_python_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_python_value(item) for item in items)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {_key(key): _python_value(value) for key, value in pairs if key is not None}
        case ast.UnaryOp(op=sign, operand=ast.Constant(value=bool() | int() | float() as number)):
            if type(sign) in _SIGNS:
                return _SIGNS[type(sign)](number)
        case ast.BinOp():
            return _arithmetic(node)
        case ast.Name() | ast.Subscript():
            return ast.unparse(node)
        case ast.Call(keywords=[]):
            return ast.unparse(node)
        case ast.Call():
            call = _python_call(node)
            return {call.name: dict(call.arguments)}
    raise UndecodableResponse(f"{_shown(node)} is not a value")


_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}


def _key(node: ast.expr) -> Any:
    key = _python_value(node)
    if isinstance(key, list | dict | tuple):
        raise UndecodableResponse(f"{_shown(node)} cannot be a key")
    return key


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
# A power of whole numbers beyond this is an attack on time and memory, not an argument.
_MAX_BITS = 4096


def _arithmetic(node: ast.BinOp) -> Any:
    """A sum, product or power of numbers, or strings put together."""
    apply = _OPERATORS.get(type(node.op))
    left, right = _python_value(node.left), _python_value(node.right)
    texts = isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Add)
    # A name is text too, but adding to a variable is no literal.
    if texts and not isinstance(node.left, ast.Name) and not isinstance(node.right, ast.Name):
        return left + right
    if apply is None or not (isinstance(left, int | float) and isinstance(right, int | float)):
        raise UndecodableResponse(f"{_shown(node)} is not a value")
    large = isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > _MAX_BITS
    if isinstance(node.op, ast.Pow) and large:
        raise UndecodableResponse(f"{_shown(node)} is too large")
    try:
        return apply(left, right)
    except ArithmeticError as error:
        raise UndecodableResponse(f"{_shown(node)}: {error}") from error


def _shown(node: ast.AST) -> str:
    return ast.unparse(node)[:80]


_NAME = re.compile(r"\s*([\w$]+(?:\.[\w$]+)*)\s*\(")
_ARGUMENT = re.compile(r"\s*([\w$]+)\s*=(?![=>])")
_NEXT_ARGUMENT = re.compile(r",\s*[\w$]+\s*=(?![=>])")
_CLOSES = {")": "(", "]": "[", "}": "{"}


def _text_calls(text: str) -> Iterator[FunctionCall]:
    """Calls ``f(a=..., b=...), g(...)`` whose values are kept as they are written."""
    rest = text
    while rest.strip():
        head = _NAME.match(rest)
        if head is None:
            raise UndecodableResponse(f"{rest.strip()[:80]!r} is not a call")
        end = closing(rest, head.end() - 1)
        yield FunctionCall(name=head[1], arguments=dict(_text_arguments(rest[head.end() : end])))
        rest = rest[end + 1 :].strip()
        if rest.startswith((",", ";")):
            rest = rest[1:]
        elif rest:
            raise UndecodableResponse(f"{rest[:80]!r} follows a call")


def _text_arguments(text: str) -> Iterator[tuple[str, str]]:
    # A comma ends a value only where ``name =`` follows: the one in ``Map<String, Integer>`` does not.
    starts = [i for i, c in top_level(text) if c == "," and _NEXT_ARGUMENT.match(text, i)]
    for start, end in zip([-1, *starts], [*starts, len(text)], strict=True):
        piece = text[start + 1 : end]
        name = _ARGUMENT.match(piece)
        if name is not None:
            yield name[1], unquoted(piece[name.end() :].strip())


def top_level(text: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """Characters outside of quotes and brackets, with their places; of a bracket pair the closing one.

    Raises:
        UndecodableResponse: quotes or brackets do not match.
    """
    open_brackets: list[str] = []
    quote = ""
    escaped = False
    for i in range(start, len(text)):
        c = text[i]
        if quote:
            if escaped:
                escaped = False
            elif c == "\\":
                escaped = True
            elif c == quote:
                quote = ""
            continue
        if c in "\"'`":
            quote = c
        elif c in "([{":
            open_brackets.append(c)
        elif c in ")]}":
            if not open_brackets or open_brackets.pop() != _CLOSES[c]:
                raise UndecodableResponse(f"{c!r} closes nothing in {text[:80]!r}")
            if not open_brackets:
                yield i, c
        elif not open_brackets:
            yield i, c
    if quote or open_brackets:
        raise UndecodableResponse(f"{(quote or open_brackets[-1])!r} is never closed in {text[:80]!r}")


def closing(text: str, start: int) -> int:
    """Where the bracket at ``start`` is closed."""
    return next(i for i, c in top_level(text, start) if c in ")]}")


def split_top(text: str, separator: str) -> list[str]:
    """The pieces between separators outside of quotes and brackets, stripped; empty ones are left out."""
    cuts = [i for i, c in top_level(text) if c == separator]
    pieces = [text[a + 1 : b].strip() for a, b in zip([-1, *cuts], [*cuts, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", re.DOTALL)


def unquoted(text: str) -> str:
    """The content of a string literal, escapes as written; anything else as it is."""
    return text[1:-1] if _QUOTED.fullmatch(text) else text


def render(calls: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """Calls, given by name and the texts of their arguments, as a response writes them."""
    texts = (f"{name}({', '.join(f'{key}={value}' for key, value in a.items())})" for name, a in calls)
    return f"[{', '.join(texts)}]"
