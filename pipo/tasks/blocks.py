"""Find fenced code blocks of Markdown in responses, unclosed and restarted ones included."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A fence may follow prose on its line if it is of backticks; its info string holds none.
_OPENING = re.compile(r"(?<!`)(?P<fence>`{3,})(?P<info>[^`]*)$|^[ \t]*(?P<tildes>~{3,})(?P<tilde_info>.*)$")
# Python as the first word of an info string, but not a session of its console (pycon).
_PYTHON = re.compile(r"\{?\s*\.?(?:python(?!-)|py(?![a-z]))", re.IGNORECASE)
# How far a closing fence may be in from the opening one; one deeper within is the program's own text.
_MAX_INDENT = 3


def blocks(response: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks: info string and body.

    A block without a closing fence goes on to the end: the response was cut at the length limit. It ends
    earlier where a new block in Python begins: a draft was given up.
    """
    opened: re.Match[str] | None = None
    body: list[str] = []
    indent = 0
    for line in response.split("\n"):
        opening = _opening(line)
        if opened is not None:
            last = before_closing(line, _fence(opened), indent)
            if last is not None:
                yield _info(opened), "\n".join([*body, last])
                opened = None
                continue
            if opening is None or not _begins_again(opening, opened, line, indent):
                body.append(line)
                continue
            yield _info(opened), "\n".join(body)
        if opening is not None:
            opened, body, indent = opening, [], len(line) - len(line.lstrip(" \t"))
    if opened is not None:
        yield _info(opened), "\n".join(body)


def _opening(line: str) -> re.Match[str] | None:
    found = _OPENING.search(line)
    return None if found is None or "```" in line[: found.start()] else found  # a fence inside a line


def _fence(opening: re.Match[str]) -> str:
    return opening["fence"] or opening["tildes"]


def _info(opening: re.Match[str]) -> str:
    return (opening["info"] or opening["tilde_info"] or "").strip()


def _begins_again(opening: re.Match[str], opened: re.Match[str], line: str, indent: int) -> bool:
    """Whether a line inside of a block begins the next one: it would have to be the program's own text."""
    deeper = len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip()) > indent + _MAX_INDENT
    alone = not line[: opening.start()].strip()
    same = _fence(opening).startswith(_fence(opened))
    return bool(alone and same and not deeper and is_python(_info(opening)))


def before_closing(line: str, fence: str, indent: int) -> str | None:
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


def is_python(info: str) -> bool:
    """Whether the label of a block says Python."""
    return bool(_PYTHON.match(info))
