r"""Grade multiple choice: the letter in the last ``<answer>`` of a response.

What is read as a letter, blanks aside:

* the letter of a choice alone, upper or lower case, in any nesting of brackets, asterisks, backticks, dollar
  signs, ``\boxed{}`` and ``\text{}``, with or without ``.``, ``,``, ``:`` or ``)`` after it: ``B``, ``b``,
  ``(B)``, ``**(B)**``, ``$\boxed{B}$``, ``B.``, ``B)``;
* a letter with a mark or a wrapper, and the text of that very choice: ``(B): the mitochondrion``.

Nothing else is: no other words (``B or C``, ``Option B``), no letter beyond the choices, no text of another
choice, no answer outside the tags, and no tag that is not closed, as in a response cut at the length limit.

An ``<answer>`` in the thought (``pipo/graders/thought.py``) does not count, nor one in the reasoning: between
``<reasoning>`` and ``</reasoning>``, or before a ``</reasoning>`` whose opening tag the prompt wrote. What
follows a ``<reasoning>`` that is never closed does: some models forget to close it and answer all the same.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from pipo.graders.thought import answer_part
from pipo.records.problems import Reward

_OPEN, _CLOSE = "<answer>", "</answer>"
_REASONING = re.compile(r"<(/?)reasoning>")
_WRAPPERS = (
    *(("(", ")"), ("[", "]"), ("*", "*"), ("`", "`"), ("$", "$")),
    *((f"\\{command}{{", "}") for command in ("boxed", "text", "textbf", "mathrm", "mathbf")),
)
_LETTER = re.compile(r"(?P<letter>[A-Za-z])\)?")
# What the text of a choice may follow. All in front, a letter in its wrappers, is short.
_AFTER_LETTER = re.compile(r"[.:)\]*`$}]")
_MAX_HEAD = 24


def letters(count: int) -> str:
    """The letters of so many choices, at most 26."""
    return string.ascii_uppercase[:count]


def read_choice(response: str, choices: Sequence[str]) -> str | None:
    """The letter that a response answers with; None when it gives none that can be read.

    Args:
        response: what the model wrote.
        choices: the texts of the choices, the first of which is A.
    """
    _, opened, rest = _without_reasoning(answer_part(response)).rpartition(_OPEN)
    inner, closed, _ = rest.partition(_CLOSE)
    if not opened or not closed:
        return None
    by_letter = dict(zip(letters(len(choices)), choices, strict=True))
    letter = _letter(inner)
    if letter is not None:
        return letter if letter in by_letter else None
    for text in (inner, _unwrapped(inner)):  # (B) an area (m), **B: an area**
        for mark in _AFTER_LETTER.finditer(text, 0, _MAX_HEAD):
            letter = _letter(text[: mark.end()])
            if letter in by_letter and _plain(text[mark.end() :]) == _plain(by_letter[letter]):
                return letter
    return None


def grade_choice(response: str, choices: Sequence[str], correct: str) -> Reward:
    """1.0 if the response answers with the right letter, else 0.0.

    Args:
        response: what the model wrote.
        choices: the texts of the choices, the first of which is A.
        correct: letter of the right one.
    """
    letter = read_choice(response, choices)
    if letter == correct:
        return Reward(score=1.0, answer=letter)
    if letter is None:
        known = ", ".join(letters(len(choices)))
        said = f"No answer could be read: {_OPEN} and {_CLOSE} must enclose one letter out of {known}."
    else:
        said = f"The answer {letter} is wrong."
    right = choices[letters(len(choices)).index(correct)]
    return Reward(score=0.0, answer=letter, feedback=f"{said} The right answer is {correct}: {right}")


def _without_reasoning(text: str) -> str:
    """The text without what stands between the tags of the reasoning."""
    kept: list[str] = []
    begin, opened = 0, None  # of what is not yet decided, and of the reasoning in it
    for tag in _REASONING.finditer(text):
        if not tag[1]:
            opened = tag.start() if opened is None else opened
            continue
        if opened is not None:
            kept.append(text[begin:opened])
        elif begin:  # it closes nothing; the first one may close what the prompt opened
            kept.append(text[begin : tag.start()])
        begin, opened = tag.end(), None
    return "".join([*kept, text[begin:]])


def _letter(text: str) -> str | None:
    """The letter, in upper case, if the text is nothing else but wrappers and marks."""
    found = _LETTER.fullmatch(_unwrapped(text))
    return found["letter"].upper() if found else None


def _unwrapped(text: str) -> str:
    """The text without marks after it and, as often as there are any, without wrappers around it."""
    while True:
        text = text.strip().rstrip(".,: \n")
        pair = next((p for p in _WRAPPERS if text.startswith(p[0]) and text.endswith(p[1])), None)
        if pair is None or len(text) <= len(pair[0] + pair[1]):
            return text
        text = text[len(pair[0]) : -len(pair[1])]


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
