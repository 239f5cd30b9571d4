"""Base of tasks whose problems are rows of a data set and whose prompt is a template file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic

from pipo.errors import TaskError
from pipo.records.problems import Dropped, E, Split
from pipo.tasks.base import Task
from pipo.tasks.rows import Row, RowSource, UnusableRow, read_examples
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

    ungraded: Mapping[str, Any] = {}
    """Fields that only prompts and reports use, with what stands for each where a row that is only to be
    graded lacks it.
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

    def to_grade(self, number: int, row: Row) -> E:
        """The problem of a row in the fields of either split."""
        filled = self.filled(row)
        refused: UnusableRow | None = None
        splits: tuple[Split, ...] = ("test", "train")
        for split in splits:
            if self._sources[split] is None:
                continue
            try:
                return self.make_example(split, number, filled)
            except UnusableRow as error:
                refused = refused or error
        raise refused or TaskError(f"{self.name} has neither a train nor a test split")

    def filled(self, row: Row) -> Row:
        """A row to be graded, with something in the place of what it lacks and grading does not use."""
        given = {name: value for name, value in row.fields.items() if value is not None}
        return replace(row, fields={**row.fields, **self.ungraded, **given})

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
