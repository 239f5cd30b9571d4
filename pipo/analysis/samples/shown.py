"""Text of a model as a terminal may show it: every character that it would obey becomes one that is seen."""

from __future__ import annotations

import re

from pipo.records.text import whole_text

# Control pictures for C0 and DEL; C1, and what turns the direction of writing, by their numbers.
_OBEYED = (
    {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: "\u2421"}
    | {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
    | {
        code: f"\\u{code:04x}"
        for code in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
    }
)
_MET = re.compile("[" + "".join(map(re.escape, map(chr, _OBEYED))) + "]")
_TAB = 4


def visible(text: str) -> str:
    """The text with nothing in it that moves a cursor, changes a colour or hides a character.

    Example:
        What would clear the screen, an escape and ``[2J``, becomes ``␛[2J``.
    """
    text = _MET.sub(lambda met: _OBEYED[ord(met[0])], whole_text(text))
    return text.expandtabs(_TAB) if "\t" in text else text


def one_line(text: str, limit: int) -> str:
    """The beginning of a text, visible, with every run of white space as one blank."""
    return " ".join(visible(text[: 4 * limit]).split())[:limit]
