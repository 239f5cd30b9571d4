r"""Extract the program from a response: fenced code blocks, and continuations of a block or a function.

Three shapes occur:

* a conversation, where the program stands in a fenced block;
* the continuation of a block that the prompt opened, where it ends at the closing fence;
* the continuation of a function that the prompt began, where it ends with that function.

Which of several blocks counts is decided as the harness of the data set does:

* :func:`find_program`: the last block in Python, as the reward of the method's authors reads TACO;
* :func:`between_last_fences`: what stands between the last two fences, as LiveCodeBench reads it;
* :func:`find_definition` and :func:`complete_function`: the last block that defines what the tests call, so
  that neither a draft or a repeated signature before it nor an example of its use behind it counts (MBPP,
  HumanEval).

What a model thinks (``pipo/graders/thought.py``) is never read. Nothing is parsed here: a deeply nested
expression, which a model that repeats itself does write, can crash Python's parser and the run with it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection

from pipo.graders.thought import answer_part
from pipo.tasks.blocks import before_closing, blocks, is_python

# A line of a shell, such as what installs or starts a program.
_COMMAND = re.compile(
    r"""
    \$\s
    | (?:sudo|pip3?|python[\d.]*|conda|uv|npm|brew|apt(?:-get)?|git|cd|mkdir|bash|sh|curl|wget|g\+\+|gcc)
      \s+[^\s=(,.:]
    """,
    re.VERBOSE,
)
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

    It is the last block labelled as Python (``python``, ``Python3.11``, ``{python}``). If there is none,
    it is the last block without a label whose lines in column 0 all begin like statements, else the first
    without a label that does not begin with a command of a shell (``pip install x``); blocks in other
    languages are passed over. Where every line in column 0 begins like a statement, up to a first fence
    without a label or in a response without any, the response continues a block which the prompt opened:
    then these lines are the program.

    Args:
        response: what the model wrote.

    Returns:
        The source; None when there is none.
    """
    response = _answer_part(response)
    return _continuation(response) or _last_block(response)


def between_last_fences(response: str) -> str | None:
    """A whole program: the lines between the last two that hold three backticks, whatever their labels.

    So a block without its closing fence is none, and an output shown in a block behind the program takes
    its place. As in :func:`find_program`, a response may continue a block which the prompt opened.

    Args:
        response: what the model wrote.

    Returns:
        The source; None when there is none.
    """
    response = _answer_part(response)
    if (code := _continuation(response)) is not None:
        return code
    lines = response.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    if len(fences) < 2:
        return None
    body = lines[fences[-2] + 1 : fences[-1]]
    last = before_closing(lines[fences[-1]], "```", 0)
    if last and (last[0] in " \t" or _STATEMENT.match(last)):  # a model that forgets the line break
        body.append(last)
    return _tidy("\n".join(body)) or None


def find_definition(response: str, names: Collection[str]) -> str | None:
    """A program that defines one of some names: the last block that does, in Python or without a label.

    Where no block does, and in a response without blocks, it is what :func:`find_program` finds.

    Args:
        response: what the model wrote.
        names: the functions and classes that the tests use.

    Returns:
        The source; None when there is none.
    """
    answer = _answer_part(response)
    if (code := _continuation(answer)) is not None:
        return code
    return _last_defining(answer, names) or _last_block(answer)


def complete_function(prompt: str, response: str, function: str) -> str | None:
    """A program with a function whose beginning the prompt shows.

    * A response whose first line is indented continues the prompt. It ends before the first line that starts
      in column 0 and is no comment: a second function, a call, prose.
    * Otherwise the last fenced block that defines the function counts, in Python or without a label. What
      stands before the function in the prompt (imports, helpers) is put in front of it.
    * If no block defines it, the first one in Python, else the first without a label, is taken as the body,
      indented if need be, and the whole prompt is put in front of it.
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
    code = _last_defining(response, [function]) or _first_block(response)
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


def _continuation(response: str) -> str | None:
    """The program, if the response goes on in a block that the prompt opened."""
    head, fence, tail = response.partition("```")
    labelled = bool(fence) and bool(tail.partition("\n")[0].lstrip("`").strip())
    return head.strip("\n") if not labelled and _reads_as_code(head) else None


def _last_block(response: str) -> str | None:
    """The body of the last block in Python; without any, of an unlabelled one that may be a program."""
    candidates = _candidates(response)
    if labelled := [body for label, body in candidates if label]:
        return labelled[-1]
    programs = [body for _, body in candidates if _reads_as_code(body)]
    return programs[-1] if programs else next((body for _, body in candidates), None)


def _last_defining(response: str, names: Collection[str]) -> str | None:
    """The last block that defines one of the names."""
    for _, body in reversed(_candidates(response)):
        if any(_defines(body, name) for name in names):
            return body
    return None


def _first_block(response: str) -> str | None:
    """The body of the first block in Python, else of the first without a label."""
    ordered = sorted(_candidates(response), key=lambda candidate: not candidate[0])
    return next((body for _, body in ordered), None)


def _candidates(response: str) -> list[tuple[bool, str]]:
    """The blocks that may be a program: whether labelled as Python, and the body.

    Blank ones, and those without a label that begin with a command of a shell, are left out.
    """
    found: list[tuple[bool, str]] = []
    for info, body in blocks(response):
        if not body.strip():
            continue
        if is_python(info):
            found.append((True, _tidy(body)))
        elif not info and not _COMMAND.match(body.lstrip()):
            found.append((False, _tidy(body)))
    return found


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
