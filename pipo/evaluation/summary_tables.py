"""The terminal's tables of an evaluation: a benchmark's parts, and before and after training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pipo.evaluation.results import Summary


def benchmark_table(name: str, content: Mapping[str, Any]) -> Table:
    """One row per part, and the average; 80 characters wide unless names are long or the k are many.

    Args:
        name: of the benchmark.
        content: of ``results.json``.
    """
    results: Mapping[str, Summary] = content["results"]
    summaries = list(results.values())
    confidence = summaries[0]["confidence"]
    table = _empty(name, _benchmark_caption(content), padding=(0, 0))
    table.add_column("part", overflow="fold")
    table.add_column("prob-\nlems", justify="right", no_wrap=True)
    table.add_column(
        f"pass@1 (%)\n[{confidence:.0%} interval]".replace("[", "\\["), justify="right", no_wrap=True
    )
    metrics = [key for key in dict.fromkeys(key for each in summaries for key in each) if _is_rate(key)]
    for heading in (*metrics, "tokens", "cut\n(%)", "grader\nerrors", "left\nout"):
        table.add_column(heading, justify="right", no_wrap=True)
    left_out = {part: each["left_out"]["count"] for part, each in content["metadata"]["parts"].items()}
    for part, summary in results.items():
        length = summary["response_length"]
        table.add_row(
            escape(part),
            str(summary["problems"]),
            _with_interval(summary),
            *(f"{100 * summary[key]:.1f}" if key in summary else "" for key in metrics),
            f"{length:.{1 if length < 1000 else 0}f}",
            f"{100 * summary['truncated']:.1f}",
            str(summary["grader_errors"]),
            str(left_out[part]),
            end_section=part == list(results)[-1],
        )
    average = content["average"]
    if len(results) > 1:
        table.add_row(
            "average",
            str(sum(each["problems"] for each in summaries)),
            _with_interval(average),
            *(f"{100 * average[key]:.1f}" if key in average else "" for key in metrics),
            "",
            "",
            str(sum(each["grader_errors"] for each in summaries)),
            str(sum(left_out.values())),
        )
    return table


def _is_rate(key: str) -> bool:
    return key.startswith(("pass@", "maj@")) and not key.endswith("_interval") and key != "pass@1"


def _with_interval(summary: Mapping[str, Any]) -> str:
    low, high = summary["pass@1_interval"]
    return f"{100 * summary['pass@1']:.1f} \\[{100 * low:.1f}, {100 * high:.1f}]"


def _benchmark_caption(content: Mapping[str, Any]) -> list[str]:
    """What the columns of the average are, the levels, and what is not covered."""
    lines = []
    columns = content["average"]["columns"]
    if any(list(column["shares"]) != [name] for name, column in columns.items()):
        shown = [f"{name} {100 * column['pass@1']:.1f}" for name, column in columns.items()]
        lines.append(f"columns of the average: {', '.join(shown)}")
    for part, summary in content["results"].items():
        levels = [f"{name}: {100 * each['pass@1']:.1f}" for name, each in summary["levels"].items()]
        if levels:
            lines.append(f"{part}, pass@1 by level  {'  '.join(levels)}")
    lines += [
        f"{part}: {machine} responses could not be graded for the machine's sake; they score 0"
        for part, summary in content["results"].items()
        if (machine := summary.get("infrastructure_errors", 0))
    ]
    lines += [
        f"not covered: {each['name']} ({each['weight']:.0%}): {each['why']}"
        for each in content["not_covered"]
    ]
    return lines


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
    rows = list(metric_rows(after))
    if [row.label for row in metric_rows(before)] != [row.label for row in rows]:
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
        table.add_row(escape(row.label), *cells, difference)
    return table


def _empty(title: str, caption: Sequence[str], padding: tuple[int, int] = (0, 1)) -> Table:
    return Table(
        title=escape(title),
        caption=escape("\n".join(caption)) if caption else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=padding,
    )


def _table(title: str, *summaries: Summary) -> Table:
    """An empty table with the column of metric names; the caption counts what the summaries cover."""
    last = summaries[-1]
    lines = [
        f"{last['problems']} problems, {last['samples']} responses",
        f"[low, high]: {last['confidence']:.0%} interval over problems",
    ]
    failures = [summary["grader_errors"] for summary in summaries]
    if any(failures):
        lines.append(f"responses that the grader failed on: {', then '.join(map(str, failures))}")
    machine = [summary.get("infrastructure_errors", 0) for summary in summaries]  # of old runs, not counted
    if any(machine):
        lines.append(f"not graded for the machine's sake, score 0: {', then '.join(map(str, machine))}")
    table = _empty(title, lines)
    table.add_column("metric")
    return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricRow:
    """Where a metric stands in a summary, and how it is written."""

    label: str
    """Name of the metric, with its unit."""
    path: Sequence[str]
    """Keys that lead to the value; the interval lies beside it."""
    scale: int
    """Factor from the stored to the shown number: 100 for shares."""
    digits: int
    """Decimals shown."""

    def _at(self, summary: Summary, suffix: str) -> Any:
        node: Any = summary
        for key in self.path[:-1]:
            node = node[key]
        return node[self.path[-1] + suffix]

    def value(self, summary: Summary) -> float:
        """The number in its stored unit."""
        return self._at(summary, "")

    def show(self, value: float, sign: str = "") -> str:
        """A number in the shown unit; ``sign="+"`` also writes a plus."""
        return f"{self.scale * value:{sign}z.{self.digits}f}"

    def interval(self, summary: Summary) -> tuple[float, float]:
        """Both ends in the stored unit."""
        low, high = self._at(summary, "_interval")
        return low, high

    def show_interval(self, summary: Summary) -> str:
        """Both ends in the shown unit, in brackets."""
        low, high = self.interval(summary)
        return f"[{self.show(low)}, {self.show(high)}]"


def metric_rows(summary: Summary) -> Iterator[MetricRow]:
    """Every metric that a summary holds, in reading order; levels last."""
    for key in summary:
        if key == "pass@1" or _is_rate(key):
            yield MetricRow(label=f"{key} (%)", path=(key,), scale=100, digits=1)
    yield MetricRow(label="reward", path=("reward",), scale=1, digits=3)
    yield MetricRow(label="length (tokens)", path=("response_length",), scale=1, digits=1)
    yield MetricRow(label="truncated (%)", path=("truncated",), scale=100, digits=1)
    for level in summary["levels"]:
        label = f"pass@1 (%), level {level}"
        yield MetricRow(label=label, path=("levels", level, "pass@1"), scale=100, digits=1)
