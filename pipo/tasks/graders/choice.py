"""Grader for multiple choice: the letter in the last ``<answer>``.

What is read as a letter, after blanks around it and one pair of brackets or asterisks are taken off:

* the letter of a choice alone, upper or lower case, with or without one of ``.``, ``)`` and ``:`` after it:
  ``B``, ``b``, ``(B)``, ``[B]``, ``**B**``, ``B.``, ``B)``;
* the letter, one of these marks, and the text of that very choice: ``B: the mitochondrion``.

Nothing else is: no other words (``B or C``, ``Option B``), no letter beyond the choices, no text of another
choice, no answer outside the tags, and no tag that is not closed, as in a response cut at the length limit.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from pipo.tasks.base import Reward

_OPEN, _CLOSE = "<answer>", "</answer>"
_WRAPPERS = (("(", ")"), ("[", "]"), ("**", "**"))
_ANSWER = re.compile(r"(?P<letter>[A-Za-z])(?:[.):]\s*(?P<text>.*))?", re.DOTALL)


def letters(count: int) -> str:
    """The letters of so many choices, at most 26."""
    return string.ascii_uppercase[:count]


def read_choice(response: str, choices: Sequence[str]) -> str | None:
    """The letter that a response answers with; None when it gives none that can be read.

    Args:
        response: what the model wrote.
        choices: the texts of the choices, the first of which is A.
    """
    _, opened, rest = response.rpartition(_OPEN)
    inner, closed, _ = rest.partition(_CLOSE)
    if not opened or not closed:
        return None
    found = _ANSWER.fullmatch(_unwrapped(inner.strip()))
    if found is None:
        return None
    letter = found["letter"].upper()
    if letter not in letters(len(choices)):
        return None
    if found["text"] and _plain(found["text"]) != _plain(choices[letters(len(choices)).index(letter)]):
        return None
    return letter


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


def _unwrapped(text: str) -> str:
    for left, right in _WRAPPERS:
        if text.startswith(left) and text.endswith(right) and len(text) > len(left + right):
            return text[len(left) : -len(right)].strip()
    return text


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
