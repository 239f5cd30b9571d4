"""SciKnowEval: multiple choice in biology, chemistry, materials science and physics (Feng et al., 2024).

Two forms of rows are read: those of the data set itself (``question``, ``choices``, ``answerKey``, ...), and
those of the split that SDPO trains and tests on (``kind``, ``prompt``, ``answer``, ...), where question and
choices are one text. A problem is the same object in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipo.graders.choice import grade_choice, letters
from pipo.records.problems import Example, Prompt, Reward, Split
from pipo.tasks.row_task import RowTask
from pipo.tasks.rows import Row, Source, UnusableRow
from pipo.tasks.verdicts import one_by_one

# How SDPO's rows end; the template of this task says it itself.
_REQUEST = "\nPlease reason step by step."

# Some texts were decoded as JSON once too often, which made control characters of LaTeX commands: \text,
# \rho, \frac and \bf begin with an escape of JSON. (So does \nu, but a line end may be meant as one.)
_SWALLOWED = {"\t": "\\t", "\r": "\\r", "\f": "\\f", "\b": "\\b"}
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class ChoiceExample(Example):
    """A question with its choices, of which ``answer`` is the right letter; ``question`` holds both."""

    choices: tuple[str, ...]
    """The texts of the choices, the first of which is A."""


class ScienceTask(RowTask[ChoiceExample]):
    """The multiple-choice problems of one domain; the letter in the last ``<answer>`` is a response's answer.

    Args:
        domain: biology, chemistry, material or physics. Rows that state another one are left out.
        train: the training rows.
        test: the held-out rows.
        template: the prompt; it may use ``question`` (with the choices) and ``letters`` (``A, B, C or D``).

    Raises:
        TaskError: an option is out of range; later, a split cannot be read.
    """

    version = "2"
    votes = True

    def __init__(self, *, domain: str, train: Source | None, test: Source | None, template: str) -> None:
        super().__init__(train=train, test=test, template=template)
        self.prompt.render({"question": "", "letters": ""})  # a template that does not fit shows now
        self.name = f"science_{domain}"
        self._domain = domain
        # Of a row of the data set; those of SDPO's split have what they need in their prompt.
        self.ungraded = {"type": "mcq", "domain": domain, "details": {"level": ""}, "question": "not given"}

    def make_example(self, split: Split, number: int, row: Row) -> ChoiceExample:
        """One problem, of either form; its level is the row's (L1 to L5), empty where it states none."""
        if "answerKey" in row.fields:
            stem, choices, answer, level = self._raw(row)
        elif "kind" in row.fields:
            stem, choices = _sdpo(row)
            answer, level = row.text("answer").strip(), ""
        else:
            raise UnusableRow(
                f"{row.place}: neither the fields of SciKnowEval (question, choices, answerKey, type, "
                f"domain, details) nor those of SDPO's split (kind, prompt, answer); there are "
                f"{sorted(row.fields)}"
            )
        _check(row.place, choices, answer)
        lines = [f"{letter}: {text}" for letter, text in zip(letters(len(choices)), choices, strict=True)]
        return ChoiceExample(
            uid=f"{self.name}/{split}/{number}",
            question="\n".join([f"{stem}\n", *lines]),
            answer=answer,
            level=level,
            choices=choices,
        )

    def _raw(self, row: Row) -> tuple[str, tuple[str, ...], str, str]:
        """Question, choices, answer and level of a row of the data set."""
        kind, domain, details = row.text("type"), row.text("domain"), row.value("details")
        if not kind.startswith("mcq"):
            raise UnusableRow(f"{row.place}: type {kind!r} is not multiple choice")
        if domain.casefold() != self._domain:
            raise UnusableRow(f"{row.place}: its domain is {domain}, not {self._domain}")
        level = details.get("level") if isinstance(details, dict) else None
        if not isinstance(level, str):
            raise UnusableRow(f"{row.place}: field 'details' must hold a text 'level', got {details!r:.80}")
        return restored(row.text("question")).strip(), _choices(row), row.text("answerKey").strip(), level

    def render(self, example: ChoiceExample) -> Prompt:
        """The question with its choices."""
        *most, last = letters(len(example.choices))
        return self.prompt.render({"question": example.question, "letters": f"{', '.join(most)} or {last}"})

    def grade(self, examples: Sequence[ChoiceExample], responses: Sequence[str]) -> list[Reward]:
        """1.0 if the letter in the last ``<answer>`` is right, else 0.0."""
        return one_by_one(lambda e, r: grade_choice(r, e.choices, e.answer), examples, responses)


def restored(text: str) -> str:
    """A text with its control characters turned back into the LaTeX commands that began with them."""
    text = text.replace("\r\n", "\n")
    return _CONTROL.sub(lambda found: _SWALLOWED.get(found.group(), " "), text)


def _choices(row: Row) -> tuple[str, ...]:
    """The choices of a row of the data set.

    They are counted by their texts: a few rows have more or fewer of these than labels, then A to D.
    """
    value = row.value("choices")
    texts, labels = (_texts(value.get(key) if isinstance(value, dict) else None) for key in ("text", "label"))
    if texts is None or labels is None:
        raise UnusableRow(
            f"{row.place}: field 'choices' must hold the lists 'text' and 'label', got {value!r:.80}"
        )
    if labels != list(letters(len(labels))):
        raise UnusableRow(f"{row.place}: the labels of 'choices' must be A, B, C, ..., got {labels!r:.80}")
    while texts and not texts[-1].strip():
        texts = texts[:-1]
    return tuple(restored(text).strip() for text in texts)


def _texts(value: object) -> list[str] | None:
    if not isinstance(value, list):
        return None
    texts = [item for item in value if isinstance(item, str)]
    return texts if len(texts) == len(value) else None


def _sdpo(row: Row) -> tuple[str, tuple[str, ...]]:
    """Question and choices of a row of SDPO's split; the choices are the last lines of its prompt."""
    if row.text("kind") != "mcq":
        raise UnusableRow(f"{row.place}: kind {row.text('kind')!r} is not multiple choice (mcq)")
    stem, found, rest = row.text("prompt").strip().removesuffix(_REQUEST).rpartition("\n\nA: ")
    if not found:
        raise UnusableRow(f"{row.place}: field 'prompt' has no choices after a blank line (A: ..., B: ...)")
    choices: list[str] = []
    for following in letters(26)[1:]:
        choice, more, rest = rest.partition(f"\n{following}: ")
        choices.append(choice)
        if not more:
            break
    return stem, tuple(choices)  # as they are: the prompt comes out as published


def _check(place: str, choices: Sequence[str], answer: str) -> None:
    if not 2 <= len(choices) <= 26:
        raise UnusableRow(f"{place}: {len(choices)} choices; 2 to 26 can be asked for")
    blank = [letter for letter, text in zip(letters(len(choices)), choices, strict=True) if not text.strip()]
    if blank:
        raise UnusableRow(f"{place}: choice {blank[0]} is blank")
    if answer not in tuple(letters(len(choices))):
        raise UnusableRow(f"{place}: the answer {answer!r:.40} is none of the {len(choices)} choices")
