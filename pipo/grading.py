"""Grade what is already there: ``python eval.py grade task=<task> samples=<file.jsonl>``. Loads no model."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipo.config.reading import read
from pipo.config.tree import GradeConfig, TaskConfig
from pipo.errors import ConfigError, RunFailed, RunStopped, TaskError
from pipo.evaluation.grading_rows import (
    Entry,
    Matcher,
    check_file,
    dumped,
    graded_row,
    read_lines,
    recorded_scores,
)
from pipo.graders.worker_pool import WorkerStartError
from pipo.records.problems import Reward
from pipo.tasks.base import Task
from pipo.tasks.verdicts import verdicts_of

GRADED_FILE = "graded.jsonl"
_REASONS_SHOWN = 3


@dataclass(kw_only=True)
class Counts:
    """What was found."""

    rows: int = 0
    """Rows of the file."""
    unusable: int = 0
    """Rows with nothing to grade."""
    scores: list[float] = field(default_factory=list)
    """Scores, one for each response."""
    solved: int = 0
    """Responses that count as right."""
    errors: int = 0
    """Responses that a grader failed on."""
    infrastructure: int = 0
    """Responses that could not be graded for the machine's sake."""
    compared: int = 0
    """Responses of an evaluation, which had a score already."""
    changed: int = 0
    """Responses of an evaluation whose score has changed."""
    reasons: list[str] = field(default_factory=list)
    """Why rows were unusable or responses failed, the first few."""

    def add(self, entry: Entry, verdicts: Sequence[Reward]) -> None:
        """Count a row."""
        self.rows += 1
        self.unusable += not verdicts
        self.scores += [verdict.score for verdict in verdicts]
        self.solved += sum(verdict.solved for verdict in verdicts)
        self.infrastructure += sum(verdict.infrastructure for verdict in verdicts)
        before = recorded_scores(entry) if verdicts else []
        known = [(old, v.score) for old, v in zip(before, verdicts, strict=False) if old is not None]
        self.compared += len(known)
        self.changed += sum(old != new for old, new in known)
        failed = [verdict.error for verdict in verdicts if verdict.error is not None]
        self.errors += len(failed) - sum(verdict.infrastructure for verdict in verdicts)
        reasons = [f"{entry.line.place}: {error}" for error in failed]
        self.reasons += reasons if entry.problem is None else [entry.problem]
        del self.reasons[_REASONS_SHOWN:]

    def report(self) -> Iterator[str]:
        """Lines for the terminal."""
        responses = len(self.scores)
        mean = f"{sum(self.scores) / responses:.4f}" if responses else "none"
        yield f"rows: {self.rows}"
        yield f"responses: {responses}"
        yield f"solved: {self.solved}" + (f" ({100 * self.solved / responses:.1f} %)" if responses else "")
        yield f"mean score: {mean}"
        yield f"errors: {self.errors}"
        yield f"infrastructure errors: {self.infrastructure}"
        if self.compared:
            yield f"scores that changed: {self.changed} of {self.compared}"
        yield f"rows that could not be graded: {self.unusable}"
        failed = self.errors + self.infrastructure + self.unusable
        if failed:
            more = f"; {failed - len(self.reasons)} more in the file" if failed > len(self.reasons) else ""
            yield f"  {'; '.join(reason[:300] for reason in self.reasons)}{more}"


def grade(cfg: DictConfig) -> None:
    """Grade every row of a file, write them with their verdicts, and print counts.

    Raises:
        ConfigError: when anything the user gave cannot be used, or not one row of the file.
        RunFailed: when a grader cannot start.
        RunStopped: when Ctrl-C ended it.
    """
    logging.getLogger("pipo").setLevel(logging.WARNING)
    config = read(cfg, GradeConfig)
    samples, folder = _path("samples", config.samples), _path("output_dir", config.output_dir)
    counts = Counts()
    with ExitStack() as stack:
        tasks = _tasks(config, stack)
        check_file(samples)
        file = stack.enter_context(_created(folder / GRADED_FILE))
        advance = stack.enter_context(_bar(samples))
        try:
            _grade(samples, Matcher(tasks), file, config.batch, counts, advance)
        except TaskError as error:
            raise ConfigError(f"{'benchmark' if config.task is None else 'task'}: {error}") from error
        except WorkerStartError as error:
            raise RunFailed(f"{error}; {_left(counts, folder)}") from error
        except KeyboardInterrupt as error:
            raise RunStopped(f"SIGINT: stopped; {_left(counts, folder)}", 130) from error
    for line in counts.report():
        print(line)
    print(f"{GRADED_FILE} is in {folder}")
    if counts.unusable == counts.rows:
        raise ConfigError(f"samples={samples}: no row could be graded; {counts.reasons[0][:300]}")


def _grade(
    samples: Path,
    matcher: Matcher,
    file: BinaryIO,
    batch: int,
    counts: Counts,
    advance: Callable[[int], None],
) -> None:
    entries = (matcher.entry(number, line) for number, line in enumerate(read_lines(samples)))
    while some := list(itertools.islice(entries, batch)):
        graded = _graded(some)
        rows = [dumped(graded_row(e, v)) + b"\n" for e, v in zip(some, graded, strict=True)]
        file.write(b"".join(rows))
        file.flush()
        for entry, found in zip(some, graded, strict=True):
            counts.add(entry, found)
        advance(some[-1].line.end)


def _graded(entries: Sequence[Entry]) -> list[list[Reward]]:
    """The verdicts on each row's responses; none for a row with nothing to grade."""
    found: list[list[Reward]] = [[] for _ in entries]
    for task in {id(e.task): e.task for e in entries if e.task is not None}.values():
        own = [
            (i, e.example, e.responses)
            for i, e in enumerate(entries)
            if e.task is task and e.example is not None
        ]
        asked = [(i, example, response) for i, example, responses in own for response in responses]
        rewards = verdicts_of(task, [example for _, example, _ in asked], [text for _, _, text in asked])
        for (index, _, _), reward in zip(asked, rewards, strict=True):
            found[index].append(reward)
    return found


def _tasks(config: GradeConfig, stack: ExitStack) -> Mapping[str | None, Task]:
    """The graders, which the stack will close."""
    if (config.task is None) == (config.benchmark is None):
        raise ConfigError(
            "grade: name the grader, task=<task>, or for the parts of an evaluation benchmark=<benchmark>"
        )
    graders: dict[str | None, TaskConfig] = {} if config.task is None else {None: config.task}
    graders |= {} if config.benchmark is None else config.benchmark.parts
    tasks: dict[str | None, Task] = {}
    for part, grader in graders.items():
        tasks[part] = grader.build()
        stack.callback(tasks[part].close)
    return tasks


def _path(key: str, given: str | None) -> Path:
    if given is None or not given.strip():
        what = "file of JSON Lines" if key == "samples" else "folder"
        raise ConfigError(f"{key}: name a {what}, {key}=...")
    return Path(given).expanduser()


def _left(counts: Counts, folder: Path) -> str:
    if not counts.rows:
        return "nothing is graded"
    return f"the first {counts.rows} rows are graded in {folder / GRADED_FILE}"


@contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    """A new file; it is gone again when nothing was written, so that the command may be repeated.

    Raises:
        ConfigError: it is there already, or cannot be written.
    """
    made = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    except FileExistsError as error:
        taken = f"holds {path.name} already" if path.exists() else "is not a folder"
        raise ConfigError(f"output_dir={path.parent}: {taken}; take another folder") from error
    except OSError as error:
        raise ConfigError(f"output_dir={path.parent}: cannot be written ({error.strerror})") from error
    try:
        with file:
            yield file
    finally:
        if not path.stat().st_size:
            path.unlink()
            if made:
                path.parent.rmdir()


@contextmanager
def _bar(samples: Path) -> Iterator[Callable[[int], None]]:
    """A bar over the file's bytes, in a terminal; yields what tells it how far we are."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("grading"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(compact=True),
        console=console,
        redirect_stderr=sys.stderr.isatty(),
        transient=True,
        disable=not console.is_interactive,
    )
    with bar:
        task = bar.add_task("", total=samples.stat().st_size)
        yield lambda end: bar.update(task, completed=end)
