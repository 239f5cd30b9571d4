"""Differences of two responses to one problem: word by word, or line by line where they are long."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipo.analysis.samples.sources import Entry

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
# Comparisons of a word with a word, at most, so that a key press is answered at once.
_MOST = 1_000_000


@dataclass(frozen=True)
class Piece:
    """A stretch of two texts."""

    before: str
    """In the first."""
    after: str
    """In the second; the same where nothing changed."""

    @property
    def same(self) -> bool:
        """Whether nothing changed here."""
        return self.before == self.after


def pieces(before: str, after: str) -> list[Piece]:
    """Cut two texts where they begin and cease to agree.

    Example:
        ``pieces("1+1 is 3", "1+1 is 2")`` is ``[Piece("1+1 is ", "1+1 is "), Piece("3", "2")]``.
    """
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if len(old) * len(new) > _MOST:
        old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [Piece("".join(old[a:b]), "".join(new[c:d])) for _, a, b, c, d in matcher.get_opcodes()]


def marked(before: str, after: str) -> str:
    """Both texts in one, as ``git diff --word-diff`` has it."""
    return "".join(
        piece.before
        if piece.same
        else (f"[-{piece.before}-]" if piece.before else "") + (f"{{+{piece.after}+}}" if piece.after else "")
        for piece in pieces(before, after)
    )


def others(entry: Entry, entries: Sequence[Entry]) -> tuple[list[Entry], int]:
    """The other responses to its problem, oldest first, and which of them to compare it with at first.

    Args:
        entry: of them all.
        entries: all, in whatever order.

    Returns:
        None in the list where it is the only one. The first choice is :func:`earlier`; with nothing earlier,
        one of the next later time, and without that the next response of the same time.
    """
    found = sorted((each for each in entries if each.uid == entry.uid and each != entry), key=_when)
    if not found:
        return [], 0
    chosen = earlier(entry, entries)
    if chosen is None:
        later = [each for each in found if _when(each)[:3] > _when(entry)[:3]]
        chosen = _alike(entry, later, later[0]) if later else found[0]
    return found, found.index(chosen)


def earlier(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
    """The response to its problem to compare it with: of the newest earlier iteration, or folder.

    Args:
        entry: of them all.
        entries: all, in whatever order.

    Returns:
        Of that time the response of the same number, or the first one; None when there is no earlier time.
    """
    before = [each for each in entries if each.uid == entry.uid and _when(each)[:3] < _when(entry)[:3]]
    return _alike(entry, before, max(before, key=_when)) if before else None


def _alike(entry: Entry, entries: Sequence[Entry], newest: Entry) -> Entry:
    """Of the time of one response the one with the same number as the entry, or the first."""
    there = sorted((each for each in entries if _when(each)[:3] == _when(newest)[:3]), key=_when)
    return next((each for each in there if each.number == entry.number), there[0])


def _when(entry: Entry) -> tuple[int, int, int, int]:
    """Iterations of a folder in order; without iterations, folder by folder."""
    return entry.folder, -1 if entry.iteration is None else entry.iteration, entry.source, entry.number
