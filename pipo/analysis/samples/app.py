"""The screen of ``pipo samples``: a list of responses, the one under the cursor, and what changed in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Static

from pipo.analysis.samples.changes import others
from pipo.analysis.samples.filters import Filters, Numbers
from pipo.analysis.samples.listing import Listing
from pipo.analysis.samples.page import compared, conversation, page, rule, time, verdict
from pipo.analysis.samples.sources import Entry, Source
from pipo.analysis.samples.view import View, response_of, siblings
from pipo.errors import ConfigError

# Bytes that are read before the first screen, and before a key is looked at again.
_FIRST, _BUDGET = 100_000, 1_000_000
# Seconds until a file is read on, and looked at again when there is no more for now.
_SOON, _LATER = 0.01, 1.0
_WIDE = 100
_ASKS = {
    "reward": "rewards, as 1, <1, >=0.5, 0.2..0.8; empty for all (Esc leaves)",
    "iteration": "iterations, as 10, 10..40, >=20; empty for all (Esc leaves)",
    "text": "words in prompt, response or verdict; empty for all (Esc leaves)",
}
_HELP = """\
up down    response before, after; PgUp PgDn Home End
n p        next, previous problem
Enter      the response on the whole screen; Esc back
Space b    scroll the response
c          what changed: this response beside one to the
           same problem at another time, words marked
left right another one to compare with
m          with the prompt, or without
/ r i      only some: words, rewards, iterations
s          only one source: training, held-out, a part
x          all again
q          quit

A reward of 1 and more is green, of 0 and less red.
Files that grow are followed. Any key goes back."""


class Help(ModalScreen[None]):
    """What the keys do."""

    CSS = "#help { padding: 1 2; height: auto; max-height: 100%; background: $panel; }"

    def compose(self) -> ComposeResult:
        """A text."""
        with VerticalScroll(can_focus=False):
            yield Static(_HELP, id="help", markup=False)

    def on_key(self, event: events.Key) -> None:
        """Any key ends it, and does nothing else."""
        event.stop()
        self.dismiss()


class SamplesApp(App[None]):
    """Look at samples by keyboard.

    Args:
        sources: of the responses.
        folders: their names.
        filters: to begin with.
        changes: whether to begin with what changed.
    """

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None  # the keys are the screen's
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 (an instance's in Textual)
        (0, "-narrow"),
        (_WIDE, "-wide"),
    ]
    CSS = """
    #status { height: 1; background: $panel; }
    #body { height: 1fr; }
    .-wide #body { layout: horizontal; }
    .-wide Listing { width: 2fr; max-width: 60; }
    .-wide #detail { width: 3fr; border-left: solid $panel; padding-left: 1; }
    .-narrow Listing { height: 1fr; }
    .-narrow #detail { height: 2fr; border-top: solid $panel; }
    #pair { height: auto; }
    .-wide #pair { layout: horizontal; }
    .-wide #pair Static { width: 1fr; padding-right: 1; }
    .-narrow #now { border-top: dashed $panel; }
    .whole Listing { display: none; }
    Input { display: none; }
    Input.asking { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home,g", "end(0)", "first", show=False),
        Binding("end,G", "end(1)", "last", show=False),
        Binding("slash", "ask('text')", "text", key_display="/"),
        Binding("r", "ask('reward')", "reward"),
        Binding("i", "ask('iteration')", "iteration"),
        Binding("n", "problem(1)", "next problem"),
        Binding("p", "problem(-1)", "previous", show=False),
        Binding("c", "changes", "changes"),
        Binding("left", "other(-1)", "compare with another", show=False),
        Binding("right", "other(1)", "compare with another", show=False),
        Binding("enter", "whole", "whole", key_display="⏎"),
        Binding("escape", "leave", "back", show=False),
        Binding("m", "prompt", "prompt"),
        Binding("s", "part", "source"),
        Binding("x", "all", "all", show=False),
        Binding("space", "scroll(1)", "scroll", show=False),
        Binding("b", "scroll(-1)", "scroll back", show=False),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(
        self, sources: Sequence[Source], folders: Sequence[str], filters: Filters, *, changes: bool
    ) -> None:
        super().__init__()
        self.sources, self.folders = sources, folders
        self.view, self.changes = View(sources, filters), changes
        self.with_prompt = True
        self.asked: str | None = None
        self.other = 0  # how far the choice is from the first one
        self.reading = True

    def compose(self) -> ComposeResult:
        """The parts of the screen."""
        yield Static(id="status", markup=False)
        with Container(id="body"):
            yield Listing()
            with VerticalScroll(id="detail", can_focus=False):
                yield Static(id="page", markup=False)
                with Container(id="pair"):
                    yield Static(id="then", markup=False)
                    yield Static(id="now", markup=False)
        yield Input(compact=True)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Read, and go on reading."""
        self._read(_FIRST)

    def _read(self, budget: int = _BUDGET) -> None:
        """A piece of the files; the next one soon, or later when there is no more for now."""
        growing = [source.grow(budget) for source in self.sources]
        self.reading = self.view.look(_BUDGET) or any(growing)
        self.query_one(Listing).put(self.view.rows)
        self._status()
        self.set_timer(_SOON if self.reading else _LATER, self._read)

    def on_resize(self) -> None:
        """Rules are as wide as the place that they are in."""
        self.call_after_refresh(self._show)

    def _filter(self, filters: Filters) -> None:
        self.view = View(self.sources, filters)
        self.reading = self.view.look(_BUDGET)
        listing = self.query_one(Listing)
        listing.put(self.view.rows)
        self._status()
        self._show()

    def _status(self) -> None:
        """One line above: how many, of which, what is wrong with the files; or what is being asked for."""
        if self.asked is not None:
            self.query_one("#status", Static).update(Text(_ASKS[self.asked], no_wrap=True))
            return
        listing, count = self.query_one(Listing), sum(len(source.entries) for source in self.sources)
        at = f"{min(listing.cursor + 1, len(listing.rows)):,}/{len(listing.rows):,}"
        said = [at] if len(listing.rows) == count else [f"{at} of {count:,}", str(self.view.filters)]
        said += ["reading ..."] if self.reading else []
        damaged = [each for source in self.sources for each in source.damaged]
        said += [f"{damaged[0]}{f' and {len(damaged) - 1} more' if damaged[1:] else ''}"] if damaged else []
        self.query_one("#status", Static).update(Text(" · ".join(said), no_wrap=True, overflow="ellipsis"))

    def on_listing_chosen(self) -> None:
        """Another response."""
        self.other = 0
        self._status()
        self._show()
        self.query_one("#detail").scroll_home(animate=False)

    def _show(self) -> None:
        entry = self.query_one(Listing).chosen
        whole, then, now = (self.query_one(f"#{name}", Static) for name in ("page", "then", "now"))
        then.display = now.display = False
        if entry is None:
            whole.update(Text("" if self.reading else "no response is as asked for; x shows all"))
        else:
            try:
                self._show_entry(entry, whole, then, now)
            except ConfigError as error:
                whole.update(Text(str(error)))

    def _show_entry(self, entry: Entry, whole: Static, then: Static, now: Static) -> None:
        response, of = response_of(self.sources, entry), siblings(entry, self.sources[entry.source])
        width = max(self.query_one("#detail").size.width - 3, 20)
        if not self.changes:
            whole.update(page(entry, response, of, self.folders, prompt=self.with_prompt, width=width))
            return
        found, first = others(entry, [each for source in self.sources for each in source.entries])
        if not found:
            said = Text("the only response to this problem; c goes back\n\n", "italic")
            text = page(entry, response, of, self.folders, prompt=self.with_prompt, width=width)
            whole.update(Text.assemble(said, text))
            return
        at = (first + self.other) % len(found)
        other = found[at]
        before = response_of(self.sources, other)
        head = Text(
            f"beside the other response {at + 1} of {len(found)} to this problem (left, right)\n", "italic"
        )
        if self.with_prompt:
            head.append_text(Text("\n".join(turn.text for turn in response.prompt), "dim"))
        whole.update(head)
        old, new = compared(conversation(before), conversation(response))
        half = width // 2 if self.screen.has_class("-wide") else width
        for place, each, said, text in ((then, other, before, old), (now, entry, response, new)):
            many = siblings(each, self.sources[each.source])
            which = f" · {each.number + 1} of {many}" if many > 1 else ""
            top = time(each, self.folders) + which
            rules = f"\n{rule('response', half)}\n"
            place.update(Text.assemble((top + "\n", "bold"), verdict(each, said), rules, text))
            place.display = True

    def action_move(self, by: int) -> None:
        """Some responses down."""
        listing = self.query_one(Listing)
        listing.move_to(listing.cursor + by)

    def action_page(self, by: int) -> None:
        """A page down."""
        self.action_move(by * max(self.query_one("#body").size.height - 1, 1))

    def action_end(self, last: int) -> None:
        """To the first response or the last."""
        listing = self.query_one(Listing)
        listing.move_to((len(listing.rows) - 1) * last)

    def action_problem(self, by: int) -> None:
        """Next or previous problem."""
        self.query_one(Listing).move_to_problem(by)

    def action_changes(self) -> None:
        """To what changed, and back."""
        self.changes, self.other = not self.changes, 0
        self._show()

    def action_other(self, by: int) -> None:
        """Compare with another response."""
        if self.changes:
            self.other += by
            self._show()

    def action_whole(self) -> None:
        """The response on the whole screen, and back."""
        self.screen.toggle_class("whole")
        self.call_after_refresh(self._show)

    def action_leave(self) -> None:
        """Out of whatever one is in."""
        if self.asked is not None:
            self._asked_no_more()
        elif self.screen.has_class("whole"):
            self.action_whole()
        elif self.changes:
            self.action_changes()

    def action_prompt(self) -> None:
        """With the prompt, or without."""
        self.with_prompt = not self.with_prompt
        self._show()

    def action_part(self) -> None:
        """Only one part, the next one, and after the last all."""
        parts = list(dict.fromkeys(each.part for source in self.sources for each in source.entries))
        choices = [None, *parts]
        now = self.view.filters.part
        at = choices.index(now) if now in choices else 0
        self._filter(dataclasses.replace(self.view.filters, part=choices[(at + 1) % len(choices)]))

    def action_all(self) -> None:
        """No filters."""
        self._filter(Filters())

    def action_scroll(self, by: int) -> None:
        """The response, by a page."""
        detail = self.query_one("#detail")
        detail.scroll_relative(y=by * max(detail.size.height - 1, 1), animate=False)

    def action_help(self) -> None:
        """What the keys do."""
        self.push_screen(Help())

    def action_ask(self, what: str) -> None:
        """A line to type a filter into."""
        self.asked = what
        line, now = self.query_one(Input), getattr(self.view.filters, what)
        line.value = now.typed if isinstance(now, Numbers) else now or ""
        line.add_class("asking")
        line.focus()
        self._status()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the filter; one that cannot be read is said and asked for again."""
        assert self.asked is not None
        typed = event.value.strip()
        try:
            value = typed if self.asked == "text" else Numbers(typed) if typed else None
        except ConfigError as error:
            self.query_one("#status", Static).update(Text(str(error), "bold red", no_wrap=True))
            return
        filters = dataclasses.replace(self.view.filters, **{self.asked: value})
        self._asked_no_more()
        self._filter(filters)

    def _asked_no_more(self) -> None:
        self.asked = None
        self.query_one(Input).remove_class("asking")
        self.set_focus(None)
        self._status()
