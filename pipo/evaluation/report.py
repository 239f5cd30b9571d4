"""Write an evaluation down: results.json, samples.jsonl and tables for the terminal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pipo.evaluation.results import ProblemResult, Summary

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.jsonl"


def write_results(folder: Path, summaries: Mapping[str, Summary], metadata: Mapping[str, Any]) -> Path:
    """Write ``results.json`` with the ``evaluate`` library.

    The file holds ``results`` (benchmark -> summary), ``metadata``, and what the library adds: the time, the
    git commit of the working directory, and the versions of the library and of Python. Nothing is sent
    anywhere. An earlier file is replaced.

    Args:
        folder: made when it does not exist.
        summaries: benchmark name -> :meth:`EvaluationResult.to_summary`.
        metadata: what was evaluated: model, sampling, task versions; plain JSON types.

    Returns:
        The path of the file.
    """
    # Imported here because it pulls in the datasets library, which takes seconds.
    from evaluate import save

    return Path(save(folder / RESULTS_FILE, results=dict(summaries), metadata=dict(metadata)))


def write_samples(folder: Path, problems: Iterable[ProblemResult]) -> Path:
    """Write ``samples.jsonl``: one line per problem with all its responses, an earlier file is replaced.

    Returns:
        The path of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SAMPLES_FILE
    with path.open("w", encoding="utf-8") as file:
        for problem in problems:
            # Keys in reading order, and text as text: the file is meant for people and for grep.
            record = {
                "uid": problem.uid,
                "level": problem.level,
                "solved": f"{problem.solved}/{len(problem.samples)}",
                "prompt": problem.prompt,
                "answer": problem.answer,
                "samples": [dataclasses.asdict(sample) for sample in problem.samples],
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def benchmark_table(name: str, summary: Summary) -> Table:
    """One benchmark as a table: metric, value, interval."""
    table = _table(name, summary)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column(f"{summary['confidence']:.0%} interval", justify="right", no_wrap=True)
    for row in _rows(summary):
        table.add_row(row.label, row.show(row.value(summary)), row.show_interval(summary))
    return table


def before_after_table(before: Summary, after: Summary) -> Table:
    """Two evaluations of the same problems side by side; 80 characters wide, unless level names are long.

    There is no interval on the difference: both evaluations use the same problems, so the difference is
    known better than the two intervals suggest, and the summaries do not hold what would tell how much.

    Args:
        before: summary of the first evaluation, as in ``summary.json``.
        after: summary of the second, with the same metrics and levels.

    Raises:
        ValueError: when the two do not measure the same metrics on the same number of problems.
    """
    rows = list(_rows(after))
    if [row.label for row in _rows(before)] != [row.label for row in rows]:
        raise ValueError("before and after do not hold the same metrics and levels")
    for key in ("problems", "confidence"):
        if before[key] != after[key]:
            raise ValueError(f"before and after differ in {key}: {before[key]} and {after[key]}")
    table = _table("before and after training", before, after)
    for column in ("before", "after", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for summary in (before, after):
            value = row.show(row.value(summary))
            cells.append(f"{value} {row.show_interval(summary)}" if row.scale == 100 else value)
        difference = row.show(row.value(after) - row.value(before), sign="+")
        table.add_row(row.label, *cells, difference)
    return table


def _table(title: str, *summaries: Summary) -> Table:
    """An empty table with the column of metric names; the caption counts what the summaries cover."""
    last = summaries[-1]
    lines = [
        f"{last['problems']} problems, {last['samples']} responses",
        f"[low, high]: {last['confidence']:.0%} bootstrap interval over problems",
    ]
    failures = [summary["grader_errors"] for summary in summaries]
    if any(failures):
        lines.append(f"responses that the grader failed on: {', then '.join(map(str, failures))}")
    table = Table(
        title=escape(title),
        caption=escape("\n".join(lines)),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("metric")
    return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """Where a metric stands in a summary, and how it is written.

    Attributes:
        label: name with unit.
        path: keys that lead to the value; the interval lies beside it.
        scale: factor from the stored to the shown number: 100 for shares.
        digits: decimals shown.
    """

    label: str
    path: Sequence[str]
    scale: int
    digits: int

    def _at(self, summary: Summary, suffix: str) -> Any:
        node: Any = summary
        for key in self.path[:-1]:
            node = node[key]
        return node[self.path[-1] + suffix]

    def value(self, summary: Summary) -> float:
        return self._at(summary, "")

    def show(self, value: float, sign: str = "") -> str:
        return f"{self.scale * value:{sign}.{self.digits}f}"

    def show_interval(self, summary: Summary) -> str:
        low, high = self._at(summary, "_interval")
        return f"[{self.show(low)}, {self.show(high)}]"


def _rows(summary: Summary) -> Iterator[_Row]:
    for key in summary:
        if key.startswith("pass@") and not key.endswith("_interval"):
            yield _Row(label=f"{key} (%)", path=(key,), scale=100, digits=1)
    yield _Row(label="reward", path=("reward",), scale=1, digits=3)
    yield _Row(label="length (tokens)", path=("response_length",), scale=1, digits=1)
    yield _Row(label="truncated (%)", path=("truncated",), scale=100, digits=1)
    for level in summary["levels"]:
        label = f"pass@1 (%), level {escape(level)}"
        yield _Row(label=label, path=("levels", level, "pass@1"), scale=100, digits=1)
