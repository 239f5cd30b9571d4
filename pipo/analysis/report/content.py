"""Content of the report as plain records: every number is formed here, the template only lays out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from pipo.analysis.report.changes import Changes, find_changes
from pipo.analysis.report.events import Event, find_events
from pipo.analysis.report.loop import LookBack, Loop, Phase, find_look_back, find_loop, find_phases
from pipo.analysis.report.run_files import RunFiles
from pipo.evaluation.results import Summary
from pipo.evaluation.summary_tables import MetricRow, metric_rows
from pipo.runs.run_log import ACCURACY

# Problems shown of those that became right, and as many of those that became wrong.
_EXAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number with its interval."""

    value: str
    """The number in the unit of its row, written out."""
    interval: str
    """Interval of the number, written out; empty without one."""
    low: float
    """Lower end in percent of the row's scale, for the drawn bar."""
    at: float
    """The value in the same percent."""
    high: float
    """Upper end in the same percent."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A held-out metric."""

    label: str
    """Name of the metric, with its unit."""
    share: bool
    """Whether the metric is a percentage, and is drawn."""
    before: Number
    """The number before training."""
    after: Number | None
    """The number after training; None for an unfinished run."""
    difference: str
    """After minus before, written out; empty for an unfinished run."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A headline number."""

    label: str
    """What the number is."""
    before: str
    """The number before training; empty where there is no such thing."""
    value: str
    """The number now."""
    note: str
    """Interval of the number, or another remark."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page."""

    title: str
    """Algorithm, PIPO and task."""
    outcome: str
    """What came of the run, in one sentence."""
    unfinished: str | None
    """What is missing and how to go on; None for a finished run."""
    ended: str | None
    """What ended it before its budget; None when nothing did."""
    tiles: Sequence[Tile]
    """The headline numbers."""
    rows: Sequence[Row]
    """Every held-out metric."""
    basis: str
    """What the rows are measured on."""
    changes: Changes | None
    """Held-out answers problem by problem; None when the records are missing."""
    loop: Loop | None
    """What PIPO did; None for a run without it."""
    look_back: LookBack | None
    """What was measured of each iteration; None for a run that did not measure."""
    phases: Sequence[Phase]
    """Where the time went."""
    events: Sequence[Event]
    """Warnings and remarks."""
    overrides: Sequence[str]
    """What the command line changed."""
    commands: Sequence[str]
    """The command of every start."""
    facts: Mapping[str, str]
    """Names and values that say what would have to be the same to repeat it."""
    config: str
    """The composed configuration as YAML."""
    folder: str
    """The run folder."""


def make_report(files: RunFiles) -> Report:
    """From what was read to what is said."""
    config, before, after = files.config, files.summary_before, files.summary_after
    changes = None
    if files.before is not None and files.after is not None:
        names = ("confidence", "resamples", "seed")
        how = {name: config.evaluation[name] for name in names}
        changes = find_changes(files.before, files.after, examples=_EXAMPLES, **how)
    overrides = [
        argument for start in files.starts[:1] for argument in start["command"] if _is_override(argument)
    ]
    return Report(
        title=_title(config),
        outcome=_outcome(files, changes),
        unfinished=_unfinished(files),
        ended=_ended(files),
        tiles=_tiles(files, changes),
        rows=[] if before is None else [_row(row, before, after) for row in metric_rows(before)],
        basis="" if before is None else _basis(before),
        changes=changes,
        loop=find_loop(files),
        look_back=find_look_back(files),
        phases=find_phases(files),
        events=find_events(files),
        overrides=overrides,
        commands=[shlex.join(start["command"]) for start in files.starts],
        facts=_facts(files),
        config=files.config_text,
        folder=str(files.folder),
    )


def _is_override(argument: str) -> bool:
    key, equals, _ = argument.lstrip("+~").partition("=")
    return bool(equals) and not argument.startswith("-") and key not in ("output_dir", "resume")


def _title(config: DictConfig) -> str:
    algo = config.algo.name.upper().replace("_", ". ")
    controlled = config.pipo.get("step_control") is not None
    steps = [" with step control"] if controlled else []
    if config.pipo.name not in ("none", "step_control"):
        kind = config.pipo.feedback
        said = {"progress": "", "paired": " (feedback=paired)"}.get(kind, f" (control: feedback={kind})")
        steps.insert(0, f" with PIPO{said}")
    return f"{algo}{' and'.join(steps)} on {config.task.name}"


def _unfinished(files: RunFiles) -> str | None:
    if files.summary is not None:
        return None
    if files.done >= files.config.iterations:
        return "All iterations are made; the evaluation after them is missing."
    return f"{files.done} of {files.config.iterations} iterations are made."


def _ended(files: RunFiles) -> str | None:
    """What a limit has to do with the number of iterations."""
    cause = None if files.summary is None else files.summary["ended_by"]
    return cause and f"{files.done} of {files.config.iterations} iterations are made: {cause} ended the run."


def _outcome(files: RunFiles, changes: Changes | None) -> str:
    """One sentence that someone who has not read anything else understands."""
    before, after = files.summary_before, files.summary_after
    if before is None:
        return "Nothing was measured before training."
    start = _percent(before["pass@1"])
    if after is None:
        point = _newest_point(files)
        said = "" if point is None else f"; the newest point of the curve, after {point[0]}, is {point[1]}"
        return f"Before training {start} of the responses to held-out problems were right{said}."
    took = f"in {files.done} iterations and {_duration(files.summary['seconds'])}" if files.summary else ""
    end = _percent(after["pass@1"])
    rose = after["pass@1"] > before["pass@1"]
    low, high = (summary["pass@1_interval"] for summary in ((before, after) if rose else (after, before)))
    sure = changes.p < 1 - after["confidence"] if changes is not None else low[1] < high[0]
    if sure:
        verb = "rose" if rose else "fell"
        return f"Held-out accuracy {verb} from {start} to {end} {took}."
    return (
        f"Held-out accuracy went from {start} to {end} {took}, which is not more than chance would do with "
        f"{after['problems']} problems."
    )


def _newest_point(files: RunFiles) -> tuple[str, str] | None:
    if files.run is None:
        return None
    iterations, accuracy = files.run.series(ACCURACY)
    if not len(accuracy):
        return None
    return f"{iterations[-1] + 1:.0f} iterations", _percent(float(accuracy[-1]))


def _tiles(files: RunFiles, changes: Changes | None) -> list[Tile]:
    before, after = files.summary_before, files.summary_after
    tiles = []
    if before is not None:
        rates = [key for key in before if key.startswith(("pass@", "maj@")) and not key.endswith("_interval")]
        tiles += [_rate_tile(key, before, after) for key in rates]
    if changes is not None:
        d, confidence = changes.difference, files.config.evaluation.confidence
        tiles.insert(
            1,
            Tile(
                label="change in pass@1",
                before="",
                value=f"{100 * d.value:+z.1f}",
                note=f"points, {confidence:.0%} interval {100 * d.low:+z.1f} to {100 * d.high:+z.1f}, paired",
            ),
        )
    spent = f"of {files.config.iterations}"
    if files.summary is not None:
        spent = f"in {_duration(files.summary['seconds'])}"
    tiles.append(Tile(label="iterations", before="", value=str(files.done), note=spent))
    return tiles


def _rate_tile(key: str, before: Summary, after: Summary | None) -> Tile:
    newest = before if after is None else after
    low, high = newest[f"{key}_interval"]
    interval = f"{newest['confidence']:.0%} interval {100 * low:.1f} to {100 * high:.1f}"
    return Tile(
        label=key if after is not None else f"{key} before training",
        before="" if after is None else f"{100 * before[key]:.1f}",
        value=_percent(newest[key]),
        note=interval,
    )


def _row(row: MetricRow, before: Summary, after: Summary | None) -> Row:
    difference = "" if after is None else row.show(row.value(after) - row.value(before), sign="+")
    return Row(
        label=row.label,
        share=row.scale == 100,
        before=_number(row, before),
        after=None if after is None else _number(row, after),
        difference=difference,
    )


def _number(row: MetricRow, summary: Summary) -> Number:
    low, high = row.interval(summary)
    return Number(
        value=row.show(row.value(summary)),
        interval=f"{row.show(low)} to {row.show(high)}",
        low=100 * low,
        at=100 * row.value(summary),
        high=100 * high,
    )


def _basis(summary: Summary) -> str:
    errors = summary["grader_errors"]
    failed = f"; the grader failed on {errors}" if errors else ""
    machine = summary.get("infrastructure_errors", 0)  # older runs did not count them
    failed += f"; the machine was at fault for {machine}" if machine else ""
    return (
        f"{summary['problems']} problems that are not trained on, {summary['samples']} responses{failed}; "
        f"{summary['confidence']:.0%} intervals over problems."
    )


def _facts(files: RunFiles) -> dict[str, str]:
    facts: dict[str, Any] = {"seed": files.config.seed}
    if files.starts:
        newest = files.starts[-1]
        git = newest["git"]
        facts["commit"] = (
            "not a checkout"
            if git is None
            else git["commit"][:12] + (", with changes" if git["changed"] else "")
        )
        facts["python"] = newest["python"]
        facts |= {name: version for name, version in newest["versions"].items() if version is not None}
    return {name: str(value) for name, value in facts.items()}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
