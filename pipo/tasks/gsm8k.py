r"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from pipo.tasks.base import Example, Message, Prompt, Split, TaskError
from pipo.tasks.boxed import BoxedTask
from pipo.tasks.rows import LocalFiles, Row, read_rows

HUB_CONFIG = "main"
ANSWER_MARK = "####"

# Written for this project; none of them is in the data set.
WORKED = (
    (
        "A baker fills 4 trays with 6 rolls each and then burns 5 rolls. How many good rolls are left?",
        "The baker makes 4 * 6 = 24 rolls. After burning 5 there are 24 - 5 = 19 good rolls left.",
        "19",
    ),
    (
        "Nadia has 30 euros. She buys 3 notebooks at 4 euros each and one pen for 7 euros. "
        "How many euros does she have left?",
        "The notebooks cost 3 * 4 = 12 euros. With the pen she pays 12 + 7 = 19 euros. "
        "She has 30 - 19 = 11 euros left.",
        "11",
    ),
    (
        "A train has 8 carriages. Half of them have 50 seats and the other half have 70 seats. "
        "How many seats does the train have?",
        "Half of 8 is 4. The smaller carriages have 4 * 50 = 200 seats. "
        "The larger ones have 4 * 70 = 280 seats. Together that is 200 + 280 = 480 seats.",
        "480",
    ),
    (
        "Oskar reads 15 pages a day. His book has 240 pages and he has already read 90. "
        "How many more days does he need?",
        "There are 240 - 90 = 150 pages left. At 15 pages a day that takes 150 / 15 = 10 days.",
        "10",
    ),
)


class Gsm8kTask(BoxedTask):
    r"""The problems of GSM8K; the last ``\boxed{...}`` of a response is its answer.

    As a conversation, a problem is one user turn, the question, a blank line and the
    instruction, after ``fewshot`` worked problems in the same form. As plain text it is the
    instruction once, then the problems as ``Question: ...`` / ``Answer: ...``, with the last
    answer left open.

    Args:
        path: local file with the training rows (JSON Lines, JSON or Parquet with the fields
            ``question`` and ``answer``); None to load from the hub.
        test_path: the same for the held-out rows.
        hub_id: the data set on the Hugging Face hub, used when both paths are None.
        revision: branch, tag or commit of it.
        fewshot: number of worked problems before each question, 0 to 4.
        instruction: what the model is told to do, the form of the answer included.
        grader_workers: processes for answers that are not plain numbers.
        grader_timeout_s: seconds one such answer may take.

    Raises:
        TaskError: an option is out of range; later, a split cannot be read.
    """

    name = "gsm8k"
    version = "1"

    def __init__(
        self,
        *,
        path: str | None,
        test_path: str | None,
        hub_id: str,
        revision: str,
        fewshot: int,
        instruction: str,
        grader_workers: int,
        grader_timeout_s: float,
    ) -> None:
        if not 0 <= fewshot <= len(WORKED):
            raise TaskError(f"task.fewshot must be in 0..{len(WORKED)}, got {fewshot}")
        if "\\boxed" not in instruction:
            raise TaskError("task.instruction must ask for \\boxed{}, the only form that is graded")
        self._files = LocalFiles(path=path, test_path=test_path)
        self._hub_id, self._revision = hub_id, revision
        self._instruction, self._worked = instruction.strip(), WORKED[:fewshot]
        super().__init__(grader_workers=grader_workers, grader_timeout_s=grader_timeout_s)
        self._examples: dict[Split, list[Example]] = {}

    def examples(self, split: Split) -> Sequence[Example]:
        """All problems of a split; read at the first call."""
        if split not in self._examples:
            rows = read_rows(
                split, files=self._files, hub_id=self._hub_id, hub_config=HUB_CONFIG, revision=self._revision
            )
            self._examples[split] = [_example(split, i, row) for i, row in enumerate(rows)]
        return self._examples[split]

    def render(self, example: Example) -> Prompt:
        """The problem after the worked ones, see the class."""
        messages: list[Message] = []
        blocks = [self._instruction]
        for question, working, answer in self._worked:
            solution = f"{working} The final answer is \\boxed{{{answer}}}."
            messages.append(self._ask(question))
            messages.append(Message(role="assistant", content=solution))
            blocks.append(f"Question: {question}\nAnswer: {solution}")
        messages.append(self._ask(example.question))
        blocks.append(f"Question: {example.question}\nAnswer:")
        return Prompt(messages=tuple(messages), text="\n\n".join(blocks))

    def _ask(self, question: str) -> Message:
        return Message(role="user", content=f"{question}\n\n{self._instruction}")


def _example(split: Split, index: int, row: Row) -> Example:
    question, solution = row.text("question").strip(), row.text("answer")
    _, mark, gold = solution.rpartition(ANSWER_MARK)
    gold = gold.strip().replace(",", "")
    if not mark or not gold:
        raise TaskError(f"{row.place}: field 'answer' has no final answer after {ANSWER_MARK!r}")
    return Example(uid=f"gsm8k/{split}/{index}", question=question, answer=gold)
