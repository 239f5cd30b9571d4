"""One response as text with styles, for the screen and, without the styles, for print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from pipo.analysis.samples.changes import marked, pieces
from pipo.analysis.samples.sources import Entry, Response, Turn

_RULE = "─"
_NAMES = {"assistant": "assistant (the policy)"}
_ROLE_STYLE = {"assistant": "bold cyan", "user": "bold magenta", "tool": "bold yellow"}
GAINED, LOST = "bold green underline", "red strike"


def title(entry: Entry, of: int, folders: Sequence[str]) -> str:
    """Which response this is.

    Args:
        entry: of the list.
        of: how many responses the problem has at its time.
        folders: names of all that are looked at.
    """
    return f"{time(entry, folders)} · {entry.uid} · response {entry.number + 1} of {of}"


def time(entry: Entry, folders: Sequence[str]) -> str:
    """Iteration and part, and the folder where there are several."""
    said = entry.part if entry.iteration is None else f"iteration {entry.iteration} · {entry.part}"
    return f"{folders[entry.folder]} · {said}" if len(folders) > 1 else said


def verdict(entry: Entry, response: Response) -> Text:
    """Reward, advantage and all else that the file says beside the texts."""
    text = Text()
    if entry.reward is not None:
        text.append(f"reward {number(entry.reward)}", reward_style(entry.reward))
    if entry.advantage is not None:
        text.append(f"{'  ' if text else ''}advantage {entry.advantage:+.4g}", "bold")
    for name, value in response.facts.items():
        separator = "" if not text else "\n" if "\n" in value or len(value) > 60 else "  "
        text.append(f"{separator}{name} ", "dim").append(value)
    return text


def page(
    entry: Entry, response: Response, of: int, folders: Sequence[str], *, prompt: bool, width: int
) -> Text:
    """The whole response, with its prompt or without."""
    text = Text(title(entry, of, folders) + "\n", "bold", end="")
    text = Text.assemble(text, verdict(entry, response), "\n")
    if prompt:
        text.append_text(_turns(response.prompt, "prompt", width))
    return text.append_text(_turns(response.turns, "response", width))


def conversation(response: Response) -> str:
    """All turns of a response as one text, to compare."""
    if len(response.turns) == 1:
        return response.turns[0].text
    return "\n".join(f"{_heading(turn)}\n{turn.text}" for turn in response.turns)


def compared(before: str, after: str) -> tuple[Text, Text]:
    """Two texts, with what only one of them has marked in it."""
    left, right = Text(), Text()
    for piece in pieces(before, after):
        left.append(piece.before, None if piece.same else LOST)
        right.append(piece.after, None if piece.same else GAINED)
    return left, right


def printed(entry: Entry, response: Response, of: int, folders: Sequence[str]) -> str:
    """A response for a pipe or a file."""
    return page(entry, response, of, folders, prompt=True, width=72).plain


def printed_change(entry: Entry, other: Entry, now: Response, then: Response, folders: Sequence[str]) -> str:
    """What changed between two responses, for a pipe or a file."""
    head = "\n".join(
        [
            entry.uid,
            f"[-{time(other, folders)}-]  {verdict(other, then).plain}",
            f"{{+{time(entry, folders)}+}}  {verdict(entry, now).plain}",
        ]
    )
    prompt = _turns(now.prompt, "prompt", 72).plain
    change = marked(conversation(then), conversation(now))
    return f"{head}\n{prompt}{rule('change', 72)}\n{change}\n"


def number(value: float) -> str:
    """A reward, short."""
    return f"{value:.3g}"


def reward_style(reward: float | None) -> str:
    """Colour of a reward."""
    if reward is None:
        return "dim"
    return "green" if reward >= 1 else "red" if reward <= 0 else "yellow"


def rule(name: str, width: int) -> str:
    """A line across with a name in it."""
    return f"{_RULE * 2} {name} ".ljust(min(width, 72), _RULE)


def _turns(turns: Sequence[Turn], name: str, width: int) -> Text:
    text = Text()
    for turn in turns:
        heading = f"{name}: {_heading(turn)}" if turn.role and len(turns) == 1 else _heading(turn) or name
        text.append(f"{rule(heading, width)}\n", _ROLE_STYLE.get(turn.role, "bold"))
        text.append(turn.text + "\n")
    return text


def _heading(turn: Turn) -> str:
    return _NAMES.get(turn.role, turn.role)
