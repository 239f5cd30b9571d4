"""Places of responses in the cache: those that have been the same so far have one together."""

from __future__ import annotations

from collections.abc import Sequence


class Places:
    """Where the rows of a batch are, while they part from each other token by token.

    Args:
        of_rows: place of each row at first; rows of one place are the same text.
        count: how many places there are.

    Example:
        Two prompts with two responses each. Both responses to the first draw 9 and stay together; those to
        the second draw 4 and 5, so that the latter gets a copy of place 1 as a third one. The tokens to read
        next are those that rows 0, 2 and 3 have drawn.

        >>> places = Places([0, 0, 1, 1], 2)
        >>> places.part([9, 9, 4, 5], [0, 1, 2, 3])
        ([(1, 2)], [0, 2, 3])
        >>> places.of_rows, places.count
        ([0, 0, 1, 2], 3)

        Row 2 is finished, so that place 1 is free when rows 0 and 1 part.

        >>> places.part([6, 7, 1, 5], [0, 1, 3])
        ([(0, 1)], [0, 1, 3])
    """

    def __init__(self, of_rows: Sequence[int], count: int) -> None:
        self.of_rows = list(of_rows)
        """Place of each row; that of a row that is finished may be another's by now."""
        self.count = count
        """Places that there are, in use or free."""
        self.apart = self.of_rows == list(range(len(self.of_rows)))
        """Whether every row has the place of its own number, so that nothing can part any more."""

    def used(self, running: Sequence[int]) -> list[int]:
        """Places that rows go on from, in the order of their first rows."""
        return list(dict.fromkeys(self.of_rows[row] for row in running))

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Forget all other rows, and number the places anew; returns the old number of each new one."""
        kept = self.used(rows)
        numbers = {old: new for new, old in enumerate(kept)}
        self.of_rows = [numbers[self.of_rows[row]] for row in rows]
        self.count = len(kept)
        self.apart = self.of_rows == list(range(len(rows)))
        return kept

    def part(self, drawn: Sequence[int], running: Sequence[int]) -> tuple[list[tuple[int, int]], list[int]]:
        """Rows of one place that have drawn different tokens get places of their own.

        Args:
            drawn: the token of each row.
            running: rows that go on.

        Returns:
            Copies to be made, from place to place, and for each place a row whose token it is to read; of
            places that nobody goes on from, any.
        """
        live = set(self.used(running))
        free = [place for place in range(self.count) if place not in live]
        copies: list[tuple[int, int]] = []
        readers = [0] * self.count
        found: dict[tuple[int, int], int] = {}
        continued: set[int] = set()
        places = list(self.of_rows)
        for row in running:
            before = self.of_rows[row]
            place = found.get((before, drawn[row]))
            if place is None:
                place = before
                if before in continued:
                    if free:
                        place = free.pop()
                    else:
                        place, self.count = self.count, self.count + 1
                        readers.append(0)
                    copies.append((before, place))
                continued.add(before)
                found[before, drawn[row]] = place
                readers[place] = row
            places[row] = place
        if copies:
            self.of_rows = places
        return copies, readers
