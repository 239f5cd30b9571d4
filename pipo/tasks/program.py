r"""The program in a response: which lines of what a model wrote are to be run.

Three shapes occur, and :func:`find_program` and :func:`complete_function` say which one it is:

* a conversation, where the program stands in the first fenced block;
* the continuation of a block that the prompt opened, where it ends at the closing fence;
* the continuation of a function that the prompt began, where it ends with that function.

What a reasoning model thinks (all up to the last ``</think>``) is never read. Nothing is parsed here: a
deeply nested expression, which a model that repeats itself does write, can crash Python's parser and the run
with it.
"""

from __future__ import annotations

import re
import textwrap

_THOUGHT_END = "</think>"
_FENCE = re.compile(r"```")
# What may follow an opening fence on its line: the name of a language.
_OPENING = re.compile(r"```[ \t]*(?P<language>[\w.+#-]*)[ \t]*\n")
_CLOSING = re.compile(r"^[ \t]*```|```[ \t]*$", re.MULTILINE)
_PYTHON = ("python", "python3", "py", "py3")

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
_DEFINITION = re.compile(r"(?:async\s+def|def|class|from|import)\s|@")


def find_program(response: str) -> str | None:
    """A whole program.

    It is the first block labelled as Python, and if there is none the first block without a label; blocks in
    other languages are passed over. Where every line in column 0 begins like a statement, up to a first fence
    without a label or in a response without any, the response continues a block which the prompt opened:
    then these lines are the program.

    Args:
        response: what the model wrote.

    Returns:
        The source; None when there is none.
    """
    response = _answer_part(response)
    head, fence, tail = response.partition("```")
    labelled = bool(fence) and bool(tail.partition("\n")[0].strip())
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
    body = code if code[:1] in (" ", "\t") else textwrap.indent(code, "    ")
    return f"{prompt.rstrip()}\n{body}"


def preamble(prompt: str, function: str) -> str:
    """What stands in a prompt before the function that it asks for: imports and helpers."""
    found = re.search(rf"^(?:async\s+)?def\s+{re.escape(function)}\b", prompt, re.MULTILINE)
    return prompt[: found.start()] if found else ""


def _answer_part(response: str) -> str:
    return response.rpartition(_THOUGHT_END)[2].replace("\r\n", "\n")


def _first_block(response: str) -> str | None:
    """The body of the first block in Python, else of the first without a label; blank ones do not count."""
    unlabelled: str | None = None
    start = 0
    while (opening := _FENCE.search(response, start)) is not None:
        found = _OPENING.match(response, opening.start())
        if found is None:  # a fence inside a line
            start = opening.end()
            continue
        # Without a closing fence the block goes on to the end: the response was cut at the length limit.
        closing = _CLOSING.search(response, found.end())
        body, start = (
            (response[found.end() : closing.start()], closing.end())
            if closing
            else (response[found.end() :], len(response))
        )
        language = found["language"].lower()
        if not body.strip():
            continue
        if language in _PYTHON:
            return _tidy(body)
        if not language and unlabelled is None:
            unlabelled = _tidy(body)
    return unlabelled


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
