"""Sampled responses of a run or an evaluation, read from its files piece by piece, also while they grow.

Of every response a line of the list is kept in memory. Its text stays in the file until it is looked at, so
that a large file costs little and its first responses are there at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipo.analysis.samples.shown import one_line, visible
from pipo.errors import ConfigError, reason

TRAINING, HELD_OUT = "training", "held-out"
# What a folder may hold: samples of a run or an evaluation, or responses that were graded only.
_FILES = ("samples.jsonl", "graded.jsonl")
_HELD_OUT = ("held_out/before.json", "held_out/after.json")
# Characters of a response in the list; no terminal shows more.
_HEAD = 200
# The problem in a row that has no prompt.
_PROBLEM = ("prompt", "problem", "question")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One response, as the list knows it."""

    folder: int
    """Which of the folders on the command line it comes from."""
    source: int
    """Which of the sources it comes from."""
    place: int
    """Where its row begins in the source."""
    number: int
    """Which of the responses to its problem at its time it is, from 0."""
    part: str
    """Training, held-out, or the part of an evaluation."""
    iteration: int | None
    """Of training; None for an evaluation."""
    uid: str
    """Name of the problem."""
    reward: float | None
    """The grader's; None when the row has none."""
    advantage: float | None
    """What the algorithm made of the reward; None outside of training."""
    head: str
    """Beginning of the response, on one line."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What somebody said."""

    role: str
    """Who: ``assistant`` for the policy, ``user``, ``tool``."""
    text: str
    """What, with nothing in it that a terminal would obey."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """All that the file says of one response."""

    prompt: tuple[Turn, ...]
    """The prompt; one turn without a role where it is one text."""
    turns: tuple[Turn, ...]
    """What was said after it; one turn where the row has no messages."""
    facts: Mapping[str, str]
    """Name -> value, of whatever else the row has."""

    def contains(self, words: str) -> bool:
        """Whether it says these words somewhere, in whatever case."""
        wanted = words.casefold()
        texts = [turn.text for turn in (*self.turns, *self.prompt)] + list(self.facts.values())
        return any(wanted in text.casefold() for text in texts)


class Source(Protocol):
    """A file of responses."""

    path: Path
    entries: list[Entry]
    """Those that were read so far."""
    damaged: list[str]
    """What could not be read, each in a few words."""
    generation: int
    """Grows when the file is another one, and what was read is read anew."""

    def grow(self, budget: int) -> bool:
        """Read on for about so many bytes; whether there is more to read at once."""
        ...

    def response(self, entry: Entry) -> Response:
        """The text of an entry.

        Raises:
            ConfigError: it is not there any more.
        """
        ...


def open_sources(folders: Sequence[Path]) -> list[Source]:
    """What run folders, folders of evaluations or files hold, in their order.

    Args:
        folders: or files of JSON Lines.

    Raises:
        ConfigError: there are no samples in one.
    """
    made: list[Source] = []
    for number, folder in enumerate(folders):
        for path in _files(folder):
            kind = HeldOutSource if path.name in map(os.path.basename, _HELD_OUT) else LinesSource
            made.append(kind(path, number, len(made)))
    return made


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    found = [folder / name for name in _FILES if (folder / name).is_file()]
    if not found:
        inside = sorted({path.parent.name for name in _FILES for path in folder.glob(f"*/{name}")})
        said = f"holds runs, but is none; name one of them, as {folder / inside[0]}" if inside else None
        raise ConfigError(f"{folder}: {said or 'no samples here (samples.jsonl is missing)'}")
    # Those of held-out problems are not there before a run has measured; an evaluation never has them.
    return found + [folder / name for name in _HELD_OUT]


class LinesSource:
    """``samples.jsonl`` or ``graded.jsonl``: rows of a training run, of an evaluation, or with a response."""

    def __init__(self, path: Path, folder: int, number: int) -> None:
        self.path, self.folder, self.number = path, folder, number
        self.generation = 0
        self._inode: int | None = None
        self._forget()

    def _forget(self) -> None:
        self.entries: list[Entry] = []
        self.damaged: list[str] = []
        self._end = self._lines = 0
        self._row: tuple[int, dict[str, Any]] | None = None  # the newest that was looked at, with its place

    def grow(self, budget: int) -> bool:
        """Read on; a last line that is only half there yet is left for the next time."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if self._inode not in (None, status.st_ino) or status.st_size < self._end:
                    self._forget()  # a resumed run writes it anew, a resumed evaluation cuts it
                    self.generation += 1
                self._inode = status.st_ino
                file.seek(self._end)
                block = file.read(budget)
                if block and not block.endswith(b"\n"):
                    block += file.readline()
        except OSError as error:
            self.damaged = [f"{self.path}: cannot be read ({reason(error)})"]
            return False
        for line in _lines(block):
            if not self._take(line):
                break
            self._end += len(line)
        return self._end < status.st_size and bool(block) and block.endswith(b"\n")

    def _take(self, line: bytes) -> bool:
        """Add a line's responses; False for half a line."""
        text = line.strip()
        self._lines += 1
        if not text:
            return True
        try:
            row = json.loads(text)
            self.entries += self._entries(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            if not line.endswith(b"\n"):
                self._lines -= 1
                return False
            self.damaged.append(f"{self.path}, line {self._lines}: no row of samples")
        return True

    def _entries(self, row: dict[str, Any]) -> Iterator[Entry]:
        for number, each in enumerate(_responses(row)):
            iteration = row.get("iteration")
            uid = visible(str(row.get("uid", f"line {self._lines}")))
            last = self.entries[-1] if self.entries else None
            if "samples" not in row and last and (last.uid, last.iteration) == (uid, iteration):
                number = last.number + 1
            yield Entry(
                folder=self.folder,
                source=self.number,
                place=self._end,
                number=number,
                part=str(row.get("part", TRAINING if iteration is not None else "graded")),
                iteration=iteration if isinstance(iteration, int) else None,
                uid=uid,
                reward=_number(each.get("reward", each.get("score"))),
                advantage=_number(each.get("advantage")),
                head=_head(each),
            )

    def response(self, entry: Entry) -> Response:
        """Read its row again."""
        try:
            if self._row is None or self._row[0] != entry.place:
                with self.path.open("rb") as file:
                    file.seek(entry.place)
                    self._row = (entry.place, json.loads(file.readline()))
            row = self._row[1]
            return _response(row, _responses(row)[entry.number if "samples" in row else 0])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ConfigError(f"{self.path}: has changed meanwhile ({reason(error)})") from error


class HeldOutSource:
    """``held_out/before.json`` or ``after.json``: a response to each of some held-out problems."""

    def __init__(self, path: Path, folder: int, number: int) -> None:
        self.path, self.folder, self.number = path, folder, number
        self.generation = 0
        self.entries: list[Entry] = []
        self.damaged: list[str] = []
        self._rows: Sequence[dict[str, Any]] = ()
        self._seen: tuple[int, int] | None = None

    def grow(self, budget: int) -> bool:
        """Read the file when it is there, or another one than before."""
        try:
            status = self.path.stat()
        except OSError:
            return False  # an unfinished run has not measured yet
        if self._seen == (status.st_ino, status.st_mtime_ns):
            return False
        self.generation += self._seen is not None
        self._seen = (status.st_ino, status.st_mtime_ns)
        try:
            content = json.loads(self.path.read_bytes())
            iterations, self._rows = int(content["iterations"]), content["responses"]
            self.entries = [
                Entry(
                    folder=self.folder,
                    source=self.number,
                    place=place,
                    number=0,
                    part=HELD_OUT,
                    iteration=iterations,
                    uid=visible(str(row["uid"])),
                    reward=_number(row["score"]),
                    advantage=None,
                    head=_head(row),
                )
                for place, row in enumerate(self._rows)
            ]
            self.damaged = []
        except (OSError, ValueError, KeyError, TypeError):
            self.damaged = [f"{self.path}: not a record of held-out problems"]
        return False

    def response(self, entry: Entry) -> Response:
        """It is in memory."""
        row = self._rows[entry.place]
        return _response(row, row)


def _lines(block: bytes) -> list[bytes]:
    """Lines with their ends; bytes.splitlines would also cut at a carriage return."""
    *whole, rest = block.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def _responses(row: Any) -> list[dict[str, Any]]:
    """The responses in a row: those of an evaluation's problem, or its one."""
    if not isinstance(row, dict):
        raise TypeError("no object")
    return row.get("samples", [row])


def _head(each: Mapping[str, Any]) -> str:
    """The list's line: what the policy said first."""
    first = each["messages"][0]["content"] if each.get("messages") else each["response"]
    return one_line(str(first), _HEAD)


def _turns(each: Mapping[str, Any]) -> tuple[Turn, ...]:
    if each.get("messages"):
        return _messages(each["messages"])
    return (Turn(role="", text=visible(str(each["response"]))),)


def _messages(value: Any) -> tuple[Turn, ...]:
    """Turns of a conversation, or a text as one turn; what a message has beside its text is shown, too."""
    if not isinstance(value, list):
        return (Turn(role="", text=visible(value if isinstance(value, str) else _json(value))),)
    turns = []
    for message in value:
        more = {name: each for name, each in message.items() if name not in ("role", "content") and each}
        content = message.get("content")
        said = [] if content is None else [content if isinstance(content, str) else _json(content)]
        said += [_json(more)] if more else []
        turns.append(Turn(role=visible(str(message["role"])), text=visible("\n".join(said))))
    return tuple(turns)


def _response(row: Mapping[str, Any], each: Mapping[str, Any]) -> Response:
    prompt = next((row[name] for name in _PROBLEM if row.get(name) is not None), "")
    return Response(prompt=_messages(prompt), turns=_turns(each), facts=_facts(row, each))


def _facts(row: Mapping[str, Any], each: Mapping[str, Any]) -> dict[str, str]:
    """What is said beside the texts, in reading order."""
    both = {**row, **each}
    evaluated, trained = "samples" in row, "reference" in row
    facts: dict[str, Any] = {
        "level": row.get("level"),
        "tokens": both.get("tokens", both.get("length")),
        "cut at the limit": None if both.get("finished", True) else "yes",
        "answer read": each.get("answer") if evaluated or trained else None,
        "reference": row["reference"] if trained else row.get("answer"),
        "solved": row.get("solved"),
        "error": each.get("error"),
        "right": None if each.get("right") is None else ("yes" if each["right"] else "no"),
        "rewards": each.get("rewards"),
        "noted": each.get("noted"),
        "feedback": each.get("feedback"),
    }
    return {
        name: visible(value if isinstance(value, str) else _json(value))
        for name, value in facts.items()
        if value not in (None, "", {})
    }


def _json(value: Any) -> str:
    if isinstance(value, dict) and all(isinstance(each, int | float | str | None) for each in value.values()):
        return ", ".join(f"{name} {'-' if each is None else each}" for name, each in value.items())
    return json.dumps(value, ensure_ascii=False)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
