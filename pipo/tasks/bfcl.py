"""BFCL: one category of the Berkeley Function Calling Leaderboard, single-turn (Patil et al., 2025)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

from pipo.errors import TaskError
from pipo.graders import bfcl as grader
from pipo.graders.bfcl_calls import Language, render
from pipo.graders.bfcl_literals import TYPES, express
from pipo.records.problems import Example, Message, Prompt, Reward, Split
from pipo.tasks.row_task import RowTask
from pipo.tasks.rows import Row, RowSource, UnusableRow
from pipo.tasks.verdicts import one_by_one

# What a response to a problem of each category is compared with.
CATEGORIES: dict[str, grader.Expectation] = {
    "simple_python": "calls",
    "simple_java": "calls",
    "simple_javascript": "calls",
    "multiple": "calls",
    "parallel": "calls",
    "parallel_multiple": "calls",
    "irrelevance": "no call",
    "live_simple": "calls",
    "live_multiple": "calls",
    "live_parallel": "calls",
    "live_parallel_multiple": "calls",
    "live_irrelevance": "no call",
    "live_relevance": "any call",
}
_LANGUAGES: dict[str, Language] = {"simple_java": "Java", "simple_javascript": "JavaScript"}
_WITH_ITEMS = ("array", "tuple", "Array", "ArrayList")


@dataclass(frozen=True, kw_only=True)
class BfclExample(Example):
    """A request with the functions that may serve it."""

    turns: tuple[Message, ...]
    """The conversation so far; the last turn is the user's. No two in a row have the same role."""
    functions: str
    """Descriptions of the functions, as JSON text."""
    reference: grader.Reference
    """The expected calls that a response is compared with."""


class BfclTask(RowTask[BfclExample]):
    """The problems of one category; each is right or wrong by the leaderboard's rules.

    Args:
        category: which one, see ``CATEGORIES``.
        test: the rows, with the fields ``id``, ``question`` (a list of conversations with one element, of
            turns with ``role`` and ``content``) and ``function`` (a list of descriptions).
        answers: rows with the fields ``id`` and ``ground_truth`` (a list of ``{function: {parameter: list of
            alternatives}}``), not read for a category that expects no particular call.
        template: the prompt, see ``pipo.tasks.template``.

    Raises:
        TaskError: there is no such category; later, the rows cannot be read.
    """

    version = "2"
    ungraded: Mapping[str, Any] = {"id": "not given"}

    def __init__(self, *, category: str, test: RowSource, answers: RowSource, template: str) -> None:
        if category not in CATEGORIES:
            raise TaskError(f"category {category!r}: must be one of {', '.join(CATEGORIES)}")
        super().__init__(train=None, test=test, template=template)
        self.name = f"bfcl_{category}"
        self._expectation: grader.Expectation = CATEGORIES[category]
        self._category = category
        self._language: Language = _language(category)
        self._answers = answers
        self._truths: dict[str, Row] | None = None

    def make_example(self, split: Split, number: int, row: Row) -> BfclExample:
        """One problem."""
        identity = row.text("id")
        turns = _turns(row)
        functions = row.value("function")
        if not isinstance(functions, list) or not all(isinstance(f, dict) for f in functions):
            raise UnusableRow(f"{row.place}: field 'function' must be a list of objects")
        described = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
        reference = self._reference(identity, row, functions)
        written = [first_alternative(call, self._language) for call in reference.calls]
        return BfclExample(
            uid=f"{self.name}/{identity}",
            question=f"{described}\n\n{turns[-1].content}",
            answer=render(written) if written else reference.expectation,
            turns=turns,
            functions=described,
            reference=reference,
        )

    def to_grade(self, number: int, row: Row) -> BfclExample:
        """One problem; it may bring its answer along, as ``ground_truth``, or ``possible_answer``."""
        filled = self.filled(row)
        other = next((c for c in CATEGORIES if re.fullmatch(rf"{c}_[\d-]+", str(filled.fields["id"]))), None)
        if other is not None and (CATEGORIES[other], _language(other)) != (self._expectation, self._language):
            raise UnusableRow(
                f"{row.place}: {filled.fields['id']} is of the category {other}, not {self._category}; grade "
                f"it with task.category={other}"
            )
        return self.make_example("test", number, filled)

    def _reference(self, identity: str, row: Row, functions: list[Any]) -> grader.Reference:
        calls: tuple[grader.ExpectedCall, ...] = ()
        if self._expectation == "calls":
            truth = self._truth(identity, row)
            calls = tuple(_expected(row, functions, call, self._language) for call in truth)
        return grader.Reference(expectation=self._expectation, calls=calls, language=self._language)

    def _truth(self, identity: str, row: Row) -> list[Any]:
        """The reference answer of a problem, from its row or from the file of answers."""
        own = row.fields.get("ground_truth", row.fields.get("possible_answer"))
        if own is not None:
            truth = own.get("ground_truth") if isinstance(own, dict) else own
            if not isinstance(truth, list) or not truth:
                raise UnusableRow(f"{row.place}: field 'ground_truth' must be a list of calls")
            return truth
        if self._truths is None:
            held = [row for row in self._answers.rows() if isinstance(row.fields.get("id"), str)]
            self._truths = {row.text("id"): row for row in held}
        if identity not in self._truths:
            raise UnusableRow(f"{row.place}: {self._answers.name} has no answer with the id {identity!r}")
        truth = self._truths[identity].value("ground_truth")
        if not isinstance(truth, list) or not truth:
            raise UnusableRow(f"{self._truths[identity].place}: field 'ground_truth' must be a list of calls")
        return truth

    def render(self, example: BfclExample) -> Prompt:
        """Instructions and functions first, then the conversation."""
        system = [turn.content for turn in example.turns if turn.role == "system"]
        *earlier, last = [turn for turn in example.turns if turn.role != "system"]
        filled = self.prompt.render(
            {
                "functions": example.functions,
                "language": example.reference.language,
                "context": "\n\n".join(system),
                "earlier": [{"role": turn.role, "content": turn.content} for turn in earlier],
                "question": last.content,
            }
        )
        *head, asked = filled.messages
        return Prompt(messages=(*head, *earlier, asked), text=filled.text)

    def grade(self, examples: Sequence[BfclExample], responses: Sequence[str]) -> list[Reward]:
        """1.0 if a response is right, else 0.0."""
        return one_by_one(lambda e, r: grader.grade(r, e.reference), examples, responses)


def _language(category: str) -> Language:
    return _LANGUAGES.get(category, "Python")


def _turns(row: Row) -> tuple[Message, ...]:
    """The conversation, neighbours of the same role put together, as many chat templates demand."""
    question = row.value("question")
    if not isinstance(question, list) or len(question) != 1 or not isinstance(question[0], list):
        raise UnusableRow(f"{row.place}: field 'question' must be a list with one conversation")
    turns: list[Message] = []
    for turn in question[0]:
        if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
            raise UnusableRow(f"{row.place}: field 'question': {turn!r:.80} is no turn of a conversation")
        if not isinstance(turn.get("content"), str):
            raise UnusableRow(f"{row.place}: field 'question': a turn must have its text in 'content'")
        turns.append(Message(role=turn["role"], content=turn["content"]))
    if not turns or turns[-1].role != "user":
        raise UnusableRow(f"{row.place}: field 'question': the last turn must be the user's")
    return tuple(
        Message(role=role, content="\n\n".join(turn.content for turn in group))
        for role, group in groupby(turns, key=attrgetter("role"))
    )


def _expected(row: Row, functions: list[Any], call: Any, language: Language) -> grader.ExpectedCall:
    """A reference call together with what its function says about the parameters."""
    if not isinstance(call, dict) or len(call) != 1:
        raise UnusableRow(f"{row.place}: a reference call must name one function, got {call!r:.80}")
    ((name, alternatives),) = call.items()
    function = next((f for f in functions if f.get("name") == name), None)
    if function is None:
        raise UnusableRow(f"{row.place}: the reference calls {name!r}, which is not described")
    if not isinstance(alternatives, dict) or not all(isinstance(v, list) for v in alternatives.values()):
        raise UnusableRow(f"{row.place}: the reference must list alternatives for each parameter of {name}")
    try:
        schema = function["parameters"]
        parameters = {key: _parameter(value, language) for key, value in schema["properties"].items()}
        required = tuple(schema["required"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UnusableRow(f"{row.place}: the description of {name} is incomplete ({error!r})") from error
    return grader.ExpectedCall(name=name, parameters=parameters, required=required, alternatives=alternatives)


def _parameter(description: Mapping[str, Any], language: Language) -> grader.Parameter:
    """Declared types.

    Raises:
        KeyError: there is none, or it is unknown.
    """
    kind = description["type"]
    item = description["items"]["type"] if kind in _WITH_ITEMS else None
    for name in (kind, *([item] if item is not None else [])):
        TYPES[language][name]
    # A Java list of ``any`` mixes strings and numbers, so there is nothing to check.
    return grader.Parameter(kind=kind, item=None if language != "Python" and item == "any" else item)


def first_alternative(call: grader.ExpectedCall, language: Language) -> tuple[str, dict[str, str]]:
    """Name and written arguments of the call with each first alternative, optional ones left out."""
    arguments: dict[str, str] = {}
    for name, alternatives in call.alternatives.items():
        if ("" not in alternatives or name in call.required) and name in call.parameters:
            parameter = call.parameters[name]
            empty = TYPES[language][parameter.kind]()
            value = _chosen(next((a for a in alternatives if a != ""), empty))
            arguments[name] = express(value, parameter.kind, parameter.item, language)
    return call.name, arguments


def _chosen(value: Any) -> Any:
    """A reference value with one alternative for each key of a dictionary, also of those in a list."""
    if isinstance(value, list):
        return [_chosen(item) if isinstance(item, dict) else item for item in value]
    if isinstance(value, dict):
        return {key: choices[0] for key, choices in value.items() if "" not in choices}
    return value
