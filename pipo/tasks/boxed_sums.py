r"""Small sums in the ``\boxed{}`` form: a task that a pretrained model of 135M parameters can start on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pipo.tasks.base import Example, Message, Prompt, Reward, Split, Task, TaskError
from pipo.tasks.graders.math import MathGrader


class BoxedSumsTask(Task):
    r"""Sums ``a + b`` of operands from 0 to ``operands_max``; the last ``\boxed{...}`` is the answer.

    Both orders of a pair are problems, and they are always in the same split; the pairs of the
    worked sums are in neither. As a conversation, a problem is the user turn ``a + b`` and the
    reply ``a + b = \boxed{c}`` (with ``working``, ``a + b = c, so \boxed{c}``), after the worked ones; as plain text, the same as one line each,
    the last one open after ``=``.

    Where SmolLM2-135M-Instruct starts (temperature 1, 128 samples, seeds 0 and 1): one-digit sums
    at 8-18 % with 3 worked sums and at 15-26 % with 8; with working, one-digit sums at 70 % and
    sums up to 20, 50 or 99 at 26-31 %, all with 3 worked sums.

    Args:
        operands_max: largest operand, at least 4; 9 gives the 100 one-digit sums.
        fewshot: number of worked sums before each problem.
        working: whether a worked reply states the sum before it boxes it.
        test_share: share of the pairs held out for the split ``test``.
        seed: which pairs are worked and which are held out.
        grader_workers: processes for answers that are not plain numbers.
        grader_timeout_s: seconds one such answer may take.

    Raises:
        TaskError: an option is out of range.
    """

    name = "boxed_sums"
    version = "1"

    def __init__(
        self,
        *,
        operands_max: int,
        fewshot: int,
        working: bool,
        test_share: float,
        seed: int,
        grader_workers: int,
        grader_timeout_s: float,
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
        self._grader = MathGrader(workers=grader_workers, timeout_s=grader_timeout_s)

    def examples(self, split: Split) -> Sequence[Example]:
        """All sums of a split."""
        return self._examples[split]

    def render(self, example: Example) -> Prompt:
        """The sum after the worked ones, see the class."""
        messages: list[Message] = []
        lines: list[str] = []
        for a, b in self._worked:
            sum_ = f"{a} + {b}"
            solution = (
                f"{sum_} = {a + b}, so \\boxed{{{a + b}}}"
                if self._working
                else f"{sum_} = \\boxed{{{a + b}}}"
            )
            messages += [Message(role="user", content=sum_), Message(role="assistant", content=solution)]
            lines.append(solution)
        messages.append(Message(role="user", content=example.question))
        lines.append(f"{example.question} =")
        return Prompt(messages=tuple(messages), text="\n".join(lines))

    def score(self, example: Example, response: str) -> Reward:
        """1.0 if the last box equals the sum, else 0.0."""
        return self._grader.grade(response, example.answer)

    def score_batch(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        """As ``score``, in parallel."""
        pairs = [(response, e.answer) for e, response in zip(examples, responses, strict=True)]
        return self._grader.grade_batch(pairs)

    def close(self) -> None:
        """End the grader's processes."""
        self._grader.close()


def _both_orders(split: Split, pairs: Sequence[tuple[int, int]]) -> list[Example]:
    ordered = sorted({order for a, b in pairs for order in ((a, b), (b, a))})
    return [
        Example(uid=f"boxed_sums/{split}/{a}+{b}", question=f"{a} + {b}", answer=str(a + b))
        for a, b in ordered
    ]
