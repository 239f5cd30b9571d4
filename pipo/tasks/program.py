r"""The program in a response: which lines of what a model wrote are to be run.

Three shapes occur, and :func:`find_program` and :func:`complete_function` say which one it is:

* a conversation, where the program stands in the first fenced block;
* the continuation of a block that the prompt opened, where it ends at the closing fence;
* the continuation of a function that the prompt began, where it ends with that function.

What a reasoning model thinks (all up to the last ``</think>``) is never read.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

_THOUGHT_END = "</think>"
# A block opens with a fence that ends its line, whatever stands before it, and closes with a fence that begins or
# ends a line; without one it goes on to the end, because the response was cut at the length limit.
_BLOCK = re.compile(
    r"```[ \t]*(?P<language>[\w.+#-]*)[ \t]*\n(?P<body>.*?)(?:^[ \t]*```|```[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_PYTHON = ("python", "python3", "py", "py3")
_DEFINITION = re.compile(r"(?:async\s+def|def|class|from|import)\s|@|#")


def find_program(response: str) -> str | None:
    """A whole program.

    Text in front of the first fence that is Python by itself continues a block which the prompt opened, and is
    the program. Otherwise it is the first block labelled as Python, and if there is none the first block
    without a label; blocks in other languages are passed over. A response without any fence must be Python
    as a whole.

    Args:
        response: what the model wrote.

    Returns:
        The source; None when there is none.
    """
    response = _answer_part(response)
    head = response.partition("```")[0]
    if _does_something(head):
        return head.strip("\r\n")
    return _first_block(response)


def complete_function(prompt: str, response: str, function: str) -> str | None:
    """A program with a function whose beginning the prompt shows.

    * A response whose first line is indented continues the prompt. It ends before the first line that starts in
      column 0 and is no comment: a second function, a call, prose.
    * Otherwise the first fenced block counts, chosen as :func:`find_program` does. If it defines the function,
      what stands before the function in the prompt (imports, helpers) is put in front of it; else it is taken as
      the body, and the whole prompt is put in front of it, indented if need be.
    * A response without a fence may write the function again, after prose. It begins with the first definition or
      import and ends before the first line in column 0, after the function, that defines and imports nothing.

    Args:
        prompt: the code that was shown; it ends where the body of the function begins.
        response: what the model wrote.
        function: name of the function.

    Returns:
        The source; None when there is none.
    """
    response = _answer_part(response)
    first = next((line for line in response.split("\n") if line.strip()), "")
    if first[:1] in (" ", "\t"):
        return f"{prompt.rstrip()}\n{_until_new_statement(response)}"
    code = _first_block(response)
    if code is None:
        code = _definitions(response.partition("```")[0], function)
    if code is None:
        return None
    if _defines(code, function):
        return f"{preamble(prompt, function)}{code}"
    body = code if code.lstrip("\r\n")[:1] in (" ", "\t") else textwrap.indent(code, "    ")
    return f"{prompt.rstrip()}\n{body}"


def preamble(prompt: str, function: str) -> str:
    """What stands in a prompt before the function that it asks for: imports and helpers."""
    found = re.search(rf"^(?:async\s+)?def\s+{re.escape(function)}\b", prompt, re.MULTILINE)
    return prompt[: found.start()] if found else ""


def _answer_part(response: str) -> str:
    return response.rpartition(_THOUGHT_END)[2].replace("\r\n", "\n")


def _first_block(response: str) -> str | None:
    blocks = [(m["language"].lower(), textwrap.dedent(m["body"])) for m in _BLOCK.finditer(response)]
    for wanted in (_PYTHON, ("",)):
        for language, body in blocks:
            if language in wanted and body.strip():
                return body.strip("\r\n")
    return None


def _does_something(text: str) -> bool:
    """Whether a text is Python that has an effect; a word of English is an expression without one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text)
    # Zero bytes; nesting beyond what the parser can hold.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    idle = (ast.Expr, ast.Pass, ast.AnnAssign)
    return any(not isinstance(s, idle) or (isinstance(s, ast.Expr) and _calls(s)) for s in tree.body)


def _calls(statement: ast.Expr) -> bool:
    return isinstance(statement.value, ast.Call)


def _defines(code: str, function: str) -> bool:
    name = re.escape(function)
    return bool(re.search(rf"^(?:(?:async\s+)?def\s+{name}\b|{name}\s*=)", code, re.MULTILINE))


def _until_new_statement(text: str) -> str:
    lines: list[str] = []
    for line in text.split("\n"):
        if line[:1] not in ("", " ", "\t", "#"):
            break
        lines.append(line)
    return "\n".join(lines).strip("\r\n")


def _definitions(text: str, function: str) -> str | None:
    """The definitions in a text, up to the first other line in column 0 that follows the function."""
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if _DEFINITION.match(line) and line[0] != "#"), None)
    if start is None or not _defines(text, function):
        return None
    kept: list[str] = []
    seen = False
    for line in lines[start:]:
        if seen and line[:1] not in ("", " ", "\t", ")", "]", "}") and not _DEFINITION.match(line):
            break
        seen = seen or _defines(line, function)
        kept.append(line)
    return "\n".join(kept).strip("\r\n")
