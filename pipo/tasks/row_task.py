"""Tasks whose problems are rows of a data set and whose prompt is a template file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic

from pipo.tasks.base import Dropped, E, Split, Task, TaskError
from pipo.tasks.rows import Row, RowSource, read_examples
from pipo.tasks.template import load_template


class RowTask(Task[E], Generic[E]):
    """Reads each split once, at the first call; subclasses say what a row means.

    Args:
        train: the training rows; None for a data set that only serves to evaluate.
        test: the held-out rows; None for a data set that only serves to train.
        template: the prompt, see :func:`pipo.tasks.template.load_template`.

    Raises:
        TaskError: there is no such template.
    """

    def __init__(self, *, train: RowSource | None, test: RowSource | None, template: str) -> None:
        self.prompt = load_template(template)
        self.template = self.prompt.label
        self._sources: dict[Split, RowSource | None] = {"train": train, "test": test}
        self._loaded: dict[Split, tuple[tuple[E, ...], tuple[Dropped, ...]]] = {}

    @abstractmethod
    def make_example(self, split: Split, number: int, row: Row) -> E:
        """The problem of a row.

        Args:
            split: where it belongs.
            number: of the row in its split, from 0.
            row: its fields.

        Raises:
            UnusableRow: the row gives no problem.
        """

    def examples(self, split: Split) -> Sequence[E]:
        """All problems of a split; read at the first call."""
        return self._load(split)[0]

    def dropped(self, split: Split) -> Sequence[Dropped]:
        """Rows of a split that gave no problem."""
        return self._load(split)[1]

    def _load(self, split: Split) -> tuple[tuple[E, ...], tuple[Dropped, ...]]:
        if split not in self._loaded:
            source = self._sources[split]
            if source is None:
                raise TaskError(f"{self.name} has no {split} split")
            self._loaded[split] = read_examples(source, lambda i, row: self.make_example(split, i, row))
        return self._loaded[split]
