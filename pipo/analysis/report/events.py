"""Warnings and remarks about a run, each with one line of advice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipo.analysis.report.run_files import RunFiles
from pipo.analysis.run_metrics import Run
from pipo.runs.run_log import ACCURACY

# From these shares on, over the last quarter of a run, the page speaks of it.
TRUNCATED, SILENT_GROUPS, GRADER_ERRORS, CLIPPED = 0.1, 0.5, 0.01, 0.2

# Part of a logged warning -> what to do about it.
_ADVICE = (
    ("rows left out", "The log names every row; mend or remove them in the data."),
    (
        "used although in doubt",
        "Look at the references that the log names; a wrong one teaches the wrong thing.",
    ),
    ("standard deviations", "pipo.max_progress bounds the coefficient; a larger pipo.window is less jumpy."),
    ("the run goes on from", "Look at the disk: a checkpoint was not what had been written."),
    ("cannot be locked", "See to it that only one program works in this folder."),
)
_NO_ADVICE = "train.log has what was said around it."
# Told below from the metrics, which count every step.
_SKIPPED = "step of the"
# A signal; that the run stopped and went on is said by its starts.
_STOPPED = "finishing this iteration"


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to know."""

    warning: bool
    """Whether it may have harmed the run; otherwise it is a remark."""
    text: str
    """What happened."""
    advice: str
    """What to do about it."""


def find_events(files: RunFiles) -> list[Event]:
    """Warnings first."""
    found = [*_from_starts(files), *_from_log(files)]
    if files.run is not None:
        for look in _LOOKS:
            found += look(files.run, files)
    return sorted(found, key=lambda event: not event.warning)


def _from_starts(files: RunFiles) -> Iterator[Event]:
    resumes = len(files.starts) - 1
    if resumes > 0:
        yield Event(
            warning=False,
            text=f"The run was resumed {_times(resumes)}.",
            advice="Nothing to do: it ends as if it had never stopped (docs/resume.md).",
        )
    changed = [start for start in files.starts if start["git"] is not None and start["git"]["changed"]]
    if changed:
        yield Event(
            warning=False,
            text="The source tree had changes that were not committed.",
            advice="Commit before a run that others should repeat; the commit below is not all of it.",
        )


def _from_log(files: RunFiles) -> Iterator[Event]:
    said: dict[str, int] = {}
    for line in files.log:
        counted = files.run is not None and _SKIPPED in line.text
        if line.level in ("WARNING", "ERROR", "CRITICAL") and not counted:
            said[line.text] = said.get(line.text, 0) + 1
    for text, count in said.items():
        if _STOPPED in text:
            if files.summary is None:
                advice = "The run was told to stop and saved; resume= goes on where it was."
                yield Event(warning=False, text=text, advice=advice)
            continue
        advice = next((advice for part, advice in _ADVICE if part in text), _NO_ADVICE)
        again = f" (said {_times(count)})" if count > 1 else ""
        yield Event(warning=True, text=f"{text}{again}", advice=advice)


def _skipped(run: Run, files: RunFiles) -> Iterator[Event]:
    for update in ("policy", "pipo", "value"):
        steps = run.series(f"{update}/skipped_steps")[1].sum()
        if steps:
            yield Event(
                warning=True,
                text=f"{steps:.0f} optimiser steps of the {update} update were skipped: loss or gradient "
                "norm was not finite.",
                advice="The first such batch is kept as bad_batch_*.pt; try a lower recipe.learning_rate.",
            )


def _not_finite(run: Run, files: RunFiles) -> Iterator[Event]:
    names = sorted(
        {name for row in run.rows.values() for name, value in row.items() if not np.isfinite(value)}
    )
    if names:
        yield Event(
            warning=True,
            text=f"Values that are not finite were logged: {', '.join(names)}.",
            advice="The figures leave them out; metrics.csv shows in which iterations.",
        )


def _truncated(run: Run, files: RunFiles) -> Iterator[Event]:
    share = _late(run, "rollout/truncated")
    if share > TRUNCATED:
        yield Event(
            warning=True,
            text=f"{_percent(share)} of the last responses were cut at "
            f"{files.config.task.max_response_tokens} tokens.",
            advice="Raise task.max_response_tokens, or make long responses cost something: "
            "+reward_terms=overlong.",
        )


def _silent_groups(run: Run, files: RunFiles) -> Iterator[Event]:
    _, shares = run.series("rollout/zero_variance_groups")
    nothing = int((shares == 1).sum())
    if nothing:
        yield Event(
            warning=True,
            text=f"In {nothing} of {len(shares)} iterations no group had a signal: all responses to a prompt "
            "got the same reward, for every prompt.",
            advice="The problems are too easy or too hard for the model, or algo.group_size is too small.",
        )
    share = _late(run, "rollout/zero_variance_groups")
    if share > SILENT_GROUPS:
        yield Event(
            warning=False,
            text=f"{_percent(share)} of the last prompts taught nothing: all their responses got the same "
            "reward.",
            advice="algo=dapo samples until enough prompts do teach; or take other problems.",
        )


def _grader(run: Run, files: RunFiles) -> Iterator[Event]:
    share = _late(run, "train/grader_errors")
    if share > GRADER_ERRORS:
        yield Event(
            warning=True,
            text=f"The grader failed on {_percent(share)} of the last responses.",
            advice="samples.jsonl shows responses; python -m pipo doctor checks what grades programs.",
        )
    _, machine = run.series("train/infrastructure_errors")
    if machine.any():
        yield Event(
            warning=True,
            text=f"In {int((machine > 0).sum())} iterations some responses could not be graded for the "
            "machine's sake; they score 0.",
            advice="train.log names the reasons: too many processes for its cores, or too little memory.",
        )


def _clipped(run: Run, files: RunFiles) -> Iterator[Event]:
    share = _late(run, "policy/clip_fraction")
    if share > CLIPPED:
        yield Event(
            warning=True,
            text=f"The trust region took the gradient of {_percent(share)} of the last tokens in the base "
            "update.",
            advice="The steps are too long for it: lower recipe.learning_rate or pipo.lr_scale.",
        )


def _pipo_idle(run: Run, files: RunFiles) -> Iterator[Event]:
    _, applied = run.series("pipo/applied")
    # What a run has not done yet it may still do.
    if not len(applied) or applied.any() or files.summary is None:
        return
    window = int(files.config.pipo.window)
    if files.config.iterations <= window:
        advice = f"A window of {window} is longer than the run: train longer, or lower pipo.window."
    else:
        advice = "train.log says why, iteration by iteration; most often rewards that do not vary."
    yield Event(warning=True, text="PIPO never made a retrospective update.", advice=advice)


def _peak(run: Run, files: RunFiles) -> Iterator[Event]:
    iterations, accuracy = run.series(ACCURACY)
    _, low = run.series(f"{ACCURACY}_low")
    if len(accuracy) < 2 or len(low) != len(accuracy):
        return
    best = int(accuracy.argmax())
    if accuracy[-1] < low[best]:
        yield Event(
            warning=True,
            text=f"Held-out accuracy was best after iteration {iterations[best] + 1:.0f} "
            f"({_percent(float(accuracy[best]))}) and fell to {_percent(float(accuracy[-1]))}.",
            advice="checkpoints/best.ckpt is the best one; a lower recipe.learning_rate may keep it.",
        )


_LOOKS: Sequence[Callable[[Run, RunFiles], Iterator[Event]]] = (
    _skipped,
    _not_finite,
    _peak,
    _pipo_idle,
    _truncated,
    _silent_groups,
    _grader,
    _clipped,
)


def _late(run: Run, metric: str) -> float:
    """Mean over the last quarter of the iterations that logged it; 0 when none did."""
    _, values = run.series(metric)
    return float(values[-max(1, len(values) // 4) :].mean()) if len(values) else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
