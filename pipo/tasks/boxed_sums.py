r"""Small sums answered in a ``\boxed{}``, for pretrained models from 135M parameters on."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from pipo.errors import TaskError
from pipo.records.problems import Example, Message, Prompt, Split
from pipo.tasks.boxed import BoxedTask
from pipo.tasks.rows import Row, UnusableRow

_SUM = re.compile(r"\s*(\d{1,9})\s*\+\s*(\d{1,9})\s*=?\s*", re.ASCII)


class BoxedSumsTask(BoxedTask):
    r"""Sums ``a + b`` of operands from 0 to ``operands_max``; the last ``\boxed{...}`` is the answer.

    Both orders of a pair are problems, and they are always in the same split; the pairs of the
    worked sums are in neither. As a conversation, a problem is the user turn ``a + b`` after the
    worked ones, whose replies are ``a + b = \boxed{c}``, or with ``working`` the easier
    ``a + b = c, so \boxed{c}``. As plain text, each reply is a line, the last one open after ``=``.

    Where SmolLM2-135M-Instruct starts (chat form, temperature 1, 128 samples a run; measured when a
    sum that was boxed without being worked out still counted, so at most): one-digit
    sums at 8-18 % with 3 worked sums and at 13-26 % with 8; with working and 3 worked sums,
    one-digit sums at 70 % and sums of operands up to 20 or 50 at 26-31 %.

    Args:
        operands_max: largest operand, at least 4; 9 gives the 100 one-digit sums.
        fewshot: number of worked sums before each problem.
        working: whether a worked reply states the sum before it boxes it.
        test_share: share of the pairs held out for the split ``test``.
        seed: which pairs are worked and which are held out.
        grader_workers: processes for answers that are not plain numbers; None for the share of the cores.
        grader_cpu_s: seconds of processor time that one such answer may take.
        grader_wall_s: seconds of wall-clock time, far above those, after which the machine is at fault.

    Raises:
        TaskError: an option is out of range.
    """

    name = "boxed_sums"
    version = "2"
    template = "boxed_sums/1"

    def __init__(
        self,
        *,
        operands_max: int,
        fewshot: int,
        working: bool,
        test_share: float,
        seed: int,
        grader_workers: int | None,
        grader_cpu_s: float,
        grader_wall_s: float,
    ) -> None:
        if operands_max < 4:
            raise TaskError(f"task.operands_max must be at least 4, got {operands_max}")
        pairs = [(a, b) for a in range(operands_max + 1) for b in range(a, operands_max + 1)]
        if not 0 <= fewshot <= len(pairs) // 2:
            raise TaskError(f"task.fewshot must be in 0..{len(pairs) // 2}, got {fewshot}")
        if not 0 < test_share < 1:
            raise TaskError(f"task.test_share must lie between 0 and 1, got {test_share}")
        random.Random(seed).shuffle(pairs)
        self._working = working
        self._worked, rest = pairs[:fewshot], pairs[fewshot:]
        held_out = min(max(round(test_share * len(rest)), 1), len(rest) - 1)
        self._examples: dict[Split, list[Example]] = {
            "test": _both_orders("test", rest[:held_out]),
            "train": _both_orders("train", rest[held_out:]),
        }
        super().__init__(
            grader_workers=grader_workers, grader_cpu_s=grader_cpu_s, grader_wall_s=grader_wall_s
        )

    def examples(self, split: Split) -> Sequence[Example]:
        """All sums of a split."""
        return self._examples[split]

    def to_grade(self, number: int, row: Row) -> Example:
        """A sum ``a + b`` in ``question``; its result need not be given."""
        found = _SUM.fullmatch(row.text("question"))
        if found is None:
            raise UnusableRow(f"{row.place}: field 'question' must be a sum a + b")
        a, b = map(int, found.groups())
        if (given := row.fields.get("answer")) is not None and str(given).strip() != str(a + b):
            raise UnusableRow(f"{row.place}: the answer of {a} + {b} is {a + b}, not {given!r:.40}")
        return Example(uid=f"boxed_sums/{number}", question=f"{a} + {b}", answer=str(a + b))

    def render(self, example: Example) -> Prompt:
        """The sum after the worked ones, see the class."""
        messages: list[Message] = []
        lines: list[str] = []
        for a, b in self._worked:
            sum_ = f"{a} + {b}"
            working = f"{a + b}, so " if self._working else ""
            solution = f"{sum_} = {working}\\boxed{{{a + b}}}"
            messages += [Message(role="user", content=sum_), Message(role="assistant", content=solution)]
            lines.append(solution)
        messages.append(Message(role="user", content=example.question))
        lines.append(f"{example.question} =")
        return Prompt(messages=tuple(messages), text="\n".join(lines))


def _both_orders(split: Split, pairs: Sequence[tuple[int, int]]) -> list[Example]:
    ordered = sorted({order for a, b in pairs for order in ((a, b), (b, a))})
    return [
        Example(uid=f"boxed_sums/{split}/{a}+{b}", question=f"{a} + {b}", answer=str(a + b))
        for a, b in ordered
    ]
