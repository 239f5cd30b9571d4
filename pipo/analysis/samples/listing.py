"""The list of responses: a line each, drawn only where it is seen, so that any number of them will do."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from pipo.analysis.samples.page import number, reward_style
from pipo.analysis.samples.sources import Entry


class Listing(ScrollView, can_focus=False):
    """Iteration, reward, advantage and the beginning of each response; those to one problem are joined.

    Its keys are the screen's, so that they work while the list is hidden.
    """

    class Chosen(Message):
        """Another response is under the cursor, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Sequence[Entry] = ()
        self.cursor = 0

    @property
    def chosen(self) -> Entry | None:
        """The response under the cursor."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def put(self, rows: Sequence[Entry]) -> None:
        """Show other rows; the cursor stays on its response where that is still among them."""
        chosen = self.chosen
        same = self.cursor < len(rows) and rows[self.cursor] == chosen
        self.rows = rows
        if not same:
            found = next((i for i, row in enumerate(rows) if row == chosen), None) if chosen else 0
            self.cursor = min(self.cursor, max(len(rows) - 1, 0)) if found is None else found
        self.virtual_size = Size(0, len(rows))
        self.refresh()
        if not same:
            self._see()
        if self.chosen != chosen:
            self.post_message(self.Chosen())

    def move_to(self, index: int) -> None:
        """Put the cursor on a row, on the nearest where there is none."""
        index = max(0, min(index, len(self.rows) - 1))
        if index != self.cursor:
            self.cursor = index
            self._see()
            self.refresh()
            self.post_message(self.Chosen())

    def _see(self) -> None:
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False, force=True)

    def move_to_problem(self, by: int) -> None:
        """To the first response to the next problem, or to the one before."""
        at = self.cursor
        while 0 <= at < len(self.rows) and not self._parts(self.cursor, at):
            at += by
        if by < 0:
            while at > 0 and not self._parts(at, at - 1):
                at -= 1
        if 0 <= at < len(self.rows):
            self.move_to(at)

    def _parts(self, one: int, other: int) -> bool:
        """Whether two rows are about different problems, or different times of one."""
        a, b = self.rows[one], self.rows[other]
        return (a.source, a.uid, a.iteration) != (b.source, b.uid, b.iteration)

    def on_click(self, event: events.Click) -> None:
        """The mouse chooses as well."""
        self.move_to(event.y + self.scroll_offset.y)

    def render_line(self, y: int) -> Strip:
        """One row of the list."""
        index, width = y + self.scroll_offset.y, self.size.width
        if index >= len(self.rows):
            return Strip.blank(width, self.rich_style)
        row, base = self.rows[index], self.rich_style
        if index == self.cursor:
            base += Style(reverse=True)
        begins = index == 0 or self._parts(index, index - 1)
        time = "-" if row.iteration is None else str(row.iteration)
        reward = "-" if row.reward is None else number(row.reward)
        segments = [
            Segment(f"{time if begins else '':>5} {'●' if begins else '│'} ", base),
            Segment(f"{reward:>5} ", base + Style.parse(reward_style(row.reward))),
        ]
        if row.advantage is not None:
            segments.append(Segment(f"{row.advantage:>+6.2f} ", base))
        segments.append(Segment(row.head, base))
        return Strip(segments).adjust_cell_length(width, base)
