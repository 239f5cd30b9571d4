"""Read the rows of BFCL's multi-turn categories, and the descriptions of the functions of its systems."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipo.errors import TaskError
from pipo.graders.bfcl_worker import package_folder
from pipo.graders.bfcl_worlds import Step
from pipo.records.text import json_text
from pipo.tasks.rows import Row, UnusableRow, read_file

_NEW_FUNCTIONS = "I have updated some more functions you can choose from. What about now?"
DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}


@dataclass(frozen=True, kw_only=True)
class PackageFile:
    """The source of the rows of one file that comes with the simulators, or of a local copy."""

    path: str | None
    """Path of the local file; None for that of the package."""
    file: str
    """Name of the package's file, below its folder of data."""

    @property
    def name(self) -> str:
        """The local file, or the package's."""
        return self.path if self.path is not None else f"bfcl_eval/data/{self.file}"

    def rows(self) -> list[Row]:
        """All rows, in the order of the file.

        Raises:
            TaskError: no such file, no rows, a broken file, or the package is not installed.
        """
        path = package_folder() / "data" / self.file if self.path is None else Path(self.path).expanduser()
        rows = read_file(path)
        if not rows:
            raise TaskError(f"{self.name}: no rows")
        return rows


@lru_cache(maxsize=len(DOCUMENTS))
def _documents(name: str) -> tuple[dict[str, Any], ...]:
    path = package_folder() / "data" / "multi_turn_func_doc" / f"{DOCUMENTS[name]}.json"
    return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def function_docs(classes: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    """Descriptions of all functions of the systems, in order.

    Raises:
        TaskError: the package with the simulators is not installed.
    """
    return tuple(document for name in classes for document in _documents(name))


def functions_of(row: Row, classes: Sequence[str]) -> tuple[str, dict[int, str]]:
    """Descriptions of the functions that are known at once, and of those that come with a later turn."""
    known = list(function_docs(classes))
    missed = row.fields.get("missed_function") or {}
    if not isinstance(missed, dict) or not all(str(turn).isdecimal() for turn in missed):
        raise UnusableRow(f"{row.place}: field 'missed_function' must name functions by number of the turn")
    late: dict[int, str] = {}
    for turn, names in missed.items():
        held = [document for document in known if document["name"] in names]
        known = [document for document in known if document["name"] not in names]
        late[int(turn)] = "\n".join(map(json_text, held))
    return "\n".join(map(json_text, known)), late


def requests_of(row: Row, late: Mapping[int, str]) -> tuple[str, ...]:
    """What the user says in each turn; nothing of their own where functions come late."""
    question = row.value("question")
    requests: list[str] = []
    turns: list[Any] = question if isinstance(question, list) else []
    for number, turn in enumerate(turns):
        if number in late:
            requests.append(f"{late[number]}\n{_NEW_FUNCTIONS}")
            continue
        texts = [
            said.get("content") for said in turn if isinstance(said, dict) and said.get("role") == "user"
        ]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UnusableRow(
                f"{row.place}: field 'question': turn {number + 1} holds no message of the user"
            )
        requests.append("\n\n".join(map(str, texts)))
    if not requests or 0 in late:
        raise UnusableRow(f"{row.place}: field 'question' must list the turns, the first one a request")
    return tuple(requests)


def calls_of(row: Row, truth: Any, turns: int) -> tuple[Step, ...]:
    """The right calls of each turn."""
    lists = isinstance(truth, list) and all(isinstance(calls, list) for calls in truth)
    if not lists or len(truth) != turns or {type(call) for calls in truth for call in calls} - {str}:
        raise UnusableRow(f"{row.place}: field 'ground_truth' must list the calls of each of {turns} turns")
    return tuple(map(tuple, truth))
