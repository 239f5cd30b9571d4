r"""The program in a response: which lines of what a model wrote are to be run.

Three shapes occur, and :func:`find_program` and :func:`complete_function` say which one it is:

* a conversation, where the program stands in the first fenced block;
* the continuation of a block that the prompt opened, where it ends at the closing fence;
* the continuation of a function that the prompt began, where it ends with that function.

What a model thinks (``pipo/tasks/thought.py``) is never read. Nothing is parsed here: a
deeply nested expression, which a model that repeats itself does write, can crash Python's parser and the run
with it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from pipo.tasks.thought import answer_part

# A fence may follow prose on its line if it is of backticks; its info string holds none.
_OPENING = re.compile(r"(?<!`)(?P<fence>`{3,})(?P<info>[^`]*)$|^[ \t]*(?P<tildes>~{3,})(?P<tilde_info>.*)$")
# Python as the first word of an info string, but not a session of its console (pycon).
_PYTHON = re.compile(r"\{?\s*\.?(?:python(?!-)|py(?![a-z]))", re.IGNORECASE)
# A line of a shell, such as what installs or starts a program.
_COMMAND = re.compile(
    r"""
    \$\s
    | (?:sudo|pip3?|python[\d.]*|conda|uv|npm|brew|apt(?:-get)?|git|cd|mkdir|bash|sh|curl|wget|g\+\+|gcc)
      \s+[^\s=(,.:]
    """,
    re.VERBOSE,
)
# How far a closing fence may be in from the opening one; one deeper within is the program's own text.
_MAX_INDENT = 3

_TARGET = r"\*?[A-Za-z_][\w.]*(?:\[[^\n=]*\])?"
# How the lines in column 0 of a program begin; few lines of prose do. The fifth line is an assignment.
_STATEMENT = re.compile(
    rf"""
    from\s+[\w.]+\s+import\b | import\s+\w | @\w
    | (?:async\s+)?def\s+\w+\s*\( | class\s+\w+\s*[:(]
    | (?:if|elif|for|while|with|match|except)\b.*: | (?:else|try|finally|except)\s*:
    | (?:assert|del|global|raise)\s+\w
    | \(?{_TARGET}(?:,\s*\(?{_TARGET})*\)?\s*(?::[^=\n]*)?(?:[-+*/%&|^@]|//|\*\*|<<|>>)?=(?!=)
    | [A-Za-z_][\w.]*\(
    | [)\]}}] | \"\"\" | '''
    """,
    re.VERBOSE,
)
_RETURN = re.compile(r"(?:return|yield)\b")
_FUNCTION = re.compile(r"(?:async\s+def|def|class)\s|@")
_DEFINITION = re.compile(r"(?:async\s+def|def|class|from|import)\s|@")


def find_program(response: str) -> str | None:
    """A whole program.

    It is the first block labelled as Python (``python``, ``Python3.11``, ``{python}``). If there is none,
    it is the first block without a label that does not begin with a command of a shell (``pip install x``);
    blocks in other languages are passed over. Where every line in column 0 begins like a statement, up to a
    first fence without a label or in a response without any, the response continues a block which the
    prompt opened: then these lines are the program.

    Args:
        response: what the model wrote.

    Returns:
        The source; None when there is none.
    """
    response = _answer_part(response)
    head, fence, tail = response.partition("```")
    labelled = bool(fence) and bool(tail.partition("\n")[0].lstrip("`").strip())
    if not labelled and _reads_as_code(head):
        return head.strip("\n")
    return _first_block(response)


def complete_function(prompt: str, response: str, function: str) -> str | None:
    """A program with a function whose beginning the prompt shows.

    * A response whose first line is indented continues the prompt. It ends before the first line that starts
      in column 0 and is no comment: a second function, a call, prose.
    * Otherwise a fenced block counts, chosen as :func:`find_program` does. If it defines the function, what
      stands before the function in the prompt (imports, helpers) is put in front of it; else it is taken as
      the body, indented if need be, and the whole prompt is put in front of it.
    * A response without a fence may write the function again, after prose. It begins with the first
      definition or import and ends before the first line in column 0, after the function, that does neither.
    * Otherwise a response without a fence may begin with the body, not indented; it ends before the first
      line in column 0 that does not begin like a statement.

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
        text = response.partition("```")[0]
        code = _definitions(text, function) or _body(text)
    if code is None:
        return None
    if _defines(code, function):
        return f"{preamble(prompt, function)}{code}"
    body = code if code[:1] in (" ", "\t") else _indented(code)
    return f"{prompt.rstrip()}\n{body}"


def preamble(prompt: str, function: str) -> str:
    """What stands in a prompt before the function that it asks for: imports and helpers."""
    found = re.search(rf"^(?:async\s+)?def\s+{re.escape(function)}\b", prompt, re.MULTILINE)
    return prompt[: found.start()] if found else ""


def _answer_part(response: str) -> str:
    return answer_part(response).replace("\r\n", "\n")


def _first_block(response: str) -> str | None:
    """The body of the first block in Python, else of the first without a label; blank ones do not count."""
    unlabelled: str | None = None
    for info, body in _blocks(response):
        if not body.strip():
            continue
        if _PYTHON.match(info):
            return _tidy(body)
        if not info and unlabelled is None and not _COMMAND.match(body.lstrip()):
            unlabelled = _tidy(body)
    return unlabelled


def _blocks(response: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks: info string and body.

    A block without a closing fence goes on to the end: the response was cut at the length limit.
    """
    lines = iter(response.split("\n"))
    for line in lines:
        opening = _OPENING.search(line)
        if opening is None or "```" in line[: opening.start()]:  # a fence inside a line
            continue
        fence = opening["fence"] or opening["tildes"]
        indent = len(line) - len(line.lstrip(" \t"))
        body: list[str] = []
        for inner in lines:
            last = _before_closing(inner, fence, indent)
            if last is not None:
                body.append(last)
                break
            body.append(inner)
        yield (opening["info"] or opening["tilde_info"] or "").strip(), "\n".join(body)


def _before_closing(line: str, fence: str, indent: int) -> str | None:
    """What a line with a closing fence holds in front of it; None for a line without one.

    The fence has the character of the opening one, at least as often, and ends its line. Backticks may follow
    code, as a model forgets the line break.
    """
    before = line.rstrip(" \t")
    code = before.rstrip(fence[0])
    if len(before) - len(code) < len(fence):
        return None
    if code.strip():
        return code if fence[0] == "`" else None
    return "" if len(code.expandtabs(4)) <= indent + _MAX_INDENT else None


def _tidy(body: str) -> str:
    """A block without blank lines around it; in a list item, or as the body of a function, it is indented."""
    return textwrap.dedent(body.strip("\n"))


def _reads_as_code(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip() and line[0] not in " \t#"]
    return bool(lines) and all(_STATEMENT.match(line) for line in lines)


def _defines(code: str, function: str) -> bool:
    name = re.escape(function)
    return bool(re.search(rf"^(?:(?:async\s+)?def\s+{name}\b|{name}\s*=)", code, re.MULTILINE))


def _until_new_statement(text: str) -> str:
    lines: list[str] = []
    for line in text.split("\n"):
        if line[:1] not in ("", " ", "\t", "#"):
            break
        lines.append(line)
    return "\n".join(lines).strip("\n")


def _definitions(text: str, function: str) -> str | None:
    """The definitions in a text, up to the first other line in column 0 that follows the function."""
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if _DEFINITION.match(line)), None)
    if start is None or not _defines(text, function):
        return None
    kept: list[str] = []
    seen = False
    for line in lines[start:]:
        if seen and line[:1] not in ("", " ", "\t", "#", ")", "]", "}") and not _DEFINITION.match(line):
            break
        seen = seen or _defines(line, function)
        kept.append(line)
    return "\n".join(kept).strip("\n")


def _body(text: str) -> str | None:
    """The body of a function that a text begins with; a definition without a ``return`` behind it is none."""
    lines = text.strip("\n").split("\n")
    end = next((i for i, line in enumerate(lines) if not _reads_as_body(line)), len(lines))
    body = lines[:end]
    if not any(body) or (_FUNCTION.match(body[0]) and not any(map(_RETURN.match, body))):
        return None
    return "\n".join(body).rstrip()


def _reads_as_body(line: str) -> bool:
    return not line.strip() or line[0] in " \t#" or bool(_RETURN.match(line) or _STATEMENT.match(line))


def _indented(body: str) -> str:
    """A body as far in as a function's; sometimes only its first line has lost its blanks."""
    first, _, rest = body.partition("\n")
    indents = [len(line) - len(line.lstrip()) for line in rest.split("\n") if line.strip()]
    if indents and min(indents) > 0 and (first.rstrip()[-1:] not in ":([{,\\" or indents[0] > min(indents)):
        return f"    {body}"
    return textwrap.indent(body, "    ")
