r"""Strip the thinking part of a response (``<think>`` and others' tags), which no grader reads.

One definition for all tasks. The thought is

* all up to the last closing tag, so also what stands between a thought and one that was opened again;
* all from an opening tag that is never closed, as in a response that was cut at the length limit.

A response whose prompt ends with an opening tag begins inside the thought. Decoding puts that tag in front
(``pipo.tasks.prompts.response_decoder``), so the text of a response tells what in it is thought. The tags are
those of ``TAGS``, of whatever kind: ``<thinking>`` may end with ``</think>``. A tag between two equal quotes
or backticks (``"</think>"``) is only spoken about. ``<reasoning>``, which the prompt of the science task asks
for, is no thought: it belongs to the answer that a user sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# How models that think open and close it: DeepSeek-R1, Qwen3 and most others; words that instructions use;
# OpenThinker and Sky-T1; Magistral; Kimi-VL; Seed-OSS; Command A; Apertus; gpt-oss; Gemma 4.
TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),
)
OPENING, CLOSING = (frozenset(tags) for tags in zip(*TAGS, strict=True))
_QUOTES = ('"', "'", "`")
# A quote behind or in front of what it quotes, beside the tag.
_ENDS_WORDS, _BEGINS_WORDS = re.compile(r"[\w.,!?)\]}]['\"`]$"), re.compile(r"['\"`]\w")


def answer_part(response: str) -> str:
    """What a response says after its thought; all of it if there is no thought, "" if nothing follows."""
    start = _last_end(response)
    opening = find_tag(_OPENING, response, start)
    return response[start:] if opening is None else response[start : opening.start()]


def opened_at_end(prompt: str) -> str:
    """The tag that a prompt ends with, and the blanks after it, if it opens a thought; else ""."""
    text = prompt.rstrip()
    tag = next((opening for opening in OPENING if text.endswith(opening)), None)
    return "" if tag is None else prompt[len(text) - len(tag) :]


def open_thought(text: str) -> str:
    """The end of a text from the tag on that opens a thought and is not closed; else ""."""
    opening = find_tag(_OPENING, text, _last_end(text))
    return "" if opening is None else text[opening.start() :]


def tag_pattern(tags: Iterable[str]) -> re.Pattern[str]:
    """For :func:`find_tag`: any of the tags."""
    return re.compile("|".join(map(re.escape, sorted(tags))))


def find_tag(tags: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    """The first of the tags from ``start`` on that is not only spoken about."""
    return next((found for found in tags.finditer(text, start) if not _quoted(text, found)), None)


def _last_end(text: str) -> int:
    """Where the last closing tag ends; 0 without any."""
    end = 0
    while (closing := find_tag(_CLOSING, text, end)) is not None:
        end = closing.end()
    return end


def _quoted(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag stands between two equal quotes that belong together.

    They do not where one ends what the thought has quoted and the other begins what the answer quotes
    (``"A"</think>"B"``), nor are three backticks any: they are the fences of two blocks.
    """
    before, after = text[max(tag.start() - 3, 0) : tag.start()], text[tag.end() : tag.end() + 3]
    if before[-1:] != after[:1] or after[:1] not in _QUOTES or "```" in (before, after):
        return False
    return not (_ENDS_WORDS.search(before) and _BEGINS_WORDS.match(after))


_OPENING, _CLOSING = tag_pattern(OPENING), tag_pattern(CLOSING)
