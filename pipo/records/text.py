"""Text that any file and any tokenizer can hold."""

from __future__ import annotations

import json
import re
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")


def has_half_pair(text: str) -> bool:
    """Whether a text holds half of a surrogate pair: JSON can say it, UTF-8 and tokenizers cannot."""
    return not text.isascii() and _HALF.search(text) is not None


def whole_text(text: str) -> str:
    """A text with every half of a surrogate pair written out, a backslash, u and its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8") if has_half_pair(text) else text


def json_text(value: Any) -> str:
    """JSON in which text stays text, for people and for grep, and which any file can hold."""
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", json.dumps(value, ensure_ascii=False))
