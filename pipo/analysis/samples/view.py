"""The responses that pass the filters, found piece by piece while the files are read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from pipo.analysis.samples.filters import Filters
from pipo.analysis.samples.sources import Entry, Response, Source
from pipo.errors import ConfigError


class View:
    """A list of entries that grows with the files.

    Args:
        sources: all of them, read so far as they may be.
        filters: what is asked for.

    Attributes:
        rows: the entries that pass, in the order of the sources.
        looked_at: how many were looked at.
    """

    def __init__(self, sources: Sequence[Source], filters: Filters) -> None:
        self.sources, self.filters = sources, filters
        self.rows: list[Entry] = []
        self._found: list[list[Entry]] = [[] for _ in sources]
        self._looked = [0] * len(sources)
        self._generations = [source.generation for source in sources]

    @property
    def looked_at(self) -> int:
        """How many responses were looked at."""
        return sum(self._looked)

    def look(self, budget: int) -> bool:
        """Look at what is new, reading about so many characters; whether something is left to look at."""
        for i, source in enumerate(self.sources):
            if self._generations[i] != source.generation:
                self._generations[i], self._found[i], self._looked[i] = source.generation, [], 0
            for entry in source.entries[self._looked[i] :]:
                if budget <= 0:
                    break
                self._looked[i] += 1
                if not self.filters.passes(entry):
                    continue
                if self.filters.text:
                    has, read = says(source, entry, self.filters.text)
                    budget -= read
                    if not has:
                        continue
                self._found[i].append(entry)
        self.rows = list(chain.from_iterable(self._found))
        return any(
            looked < len(source.entries) for looked, source in zip(self._looked, self.sources, strict=True)
        )


def says(source: Source, entry: Entry, words: str) -> tuple[bool, int]:
    """Whether a response holds these words, and how many characters that took."""
    try:
        response = source.response(entry)
    except ConfigError:
        return False, 0
    return response.contains(words), sum(len(turn.text) for turn in (*response.prompt, *response.turns))


def siblings(entry: Entry, source: Source) -> int:
    """How many responses its problem has at its time: they stand side by side in the file."""
    entries = source.entries
    low, high = 0, len(entries)
    while low < high:  # places grow
        middle = (low + high) // 2
        if (entries[middle].place, entries[middle].number) < (entry.place, entry.number):
            low = middle + 1
        else:
            high = middle
    end = low
    while end < len(entries) and (entries[end].uid, entries[end].iteration) == (entry.uid, entry.iteration):
        end += 1
    return entry.number + end - low


def response_of(sources: Sequence[Source], entry: Entry) -> Response:
    """The text of an entry.

    Raises:
        ConfigError: it is not there any more.
    """
    return sources[entry.source].response(entry)
