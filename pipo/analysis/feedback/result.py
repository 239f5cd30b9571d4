"""Findings about one run as a table for the terminal, and as a JSON object."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipo.analysis.feedback.curve import Curve
from pipo.analysis.feedback.model import GOAL, Findings, Question
from pipo.evaluation.agreement import Agreement
from pipo.evaluation.statistics import Estimate

# A correlation of neighbouring residuals beyond this many standard errors is told.
_TOLD = 2.5


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run, read and studied."""

    curve: Curve
    """What was read."""
    window: int
    """K."""
    negative_scale: float
    """lambda."""
    findings: Findings
    """What the model says."""
    realised: dict[int, Agreement]
    """Window that the change is measured against -> realised agreement; empty when it was not measured."""

    @property
    def questions(self) -> dict[str, tuple[Question, Agreement | None]]:
        """What the sign may be right about -> the model's answer, and the realised one."""
        return {
            "the last iteration's change": (self.findings.last, self.realised.get(1)),
            f"the change against the last {self.window}": (
                self.findings.against_window,
                self.realised.get(self.window),
            ),
        }


def as_text(result: Result) -> str:
    """The table of one run."""
    curve, found = result.curve, result.findings
    source = (
        "measured: spread of the prompts' means"
        if found.measured
        else "at most: scatter of neighbouring means"
    )
    facts = [
        ("iterations", f"{len(curve.means)}, of these {found.defined} with a feedback (K = {result.window})"),
        ("xi < 0", f"{found.negative:.2f} of these; {found.negative_expected:.2f} by the model below"),
        ("mean of phi(xi)", f"{found.coefficient:+.2f} at lambda = {result.negative_scale:g}"),
        ("noise of one batch mean", f"{found.noise:.2g} ({source})"),
    ]
    if found.measured:
        facts.append(("scatter of the curve", f"{found.curve_noise:.2g}, noise and true ups and downs"))
    facts.append(("trend per iteration", _interval(found.trend, "+.2g")))
    lines = [f"{curve.name}: {curve.source}", *(f"  {name:<25} {text}" for name, text in facts), ""]
    heads = (
        "sign of xi is that of",
        "probability",
        "coin",
        "always +",
        f"prompts for {GOAL:.0%}",
        "realised",
    )
    table = [heads, *(_row(result, name, *each) for name, each in result.questions.items())]
    if not result.realised:
        table = [row[:-1] for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines += [f"  note: {note}" for note in notes(result)]
    return "\n".join(lines)


def notes(result: Result) -> list[str]:
    """What must be known to read the figures of this run."""
    curve, found = result.curve, result.findings
    said = list(curve.notes)
    if found.last.probability.low < 0.5:
        said.append("the curve does not show which way it goes: an interval reaches below one half")
    if found.measured and found.curve_noise > 1.5 * found.noise:
        said.append(
            f"the curve scatters {found.curve_noise / found.noise:.1f} times as much as the draw of prompts "
            "explains: true ups and downs from one iteration to the next, or batches that are no random draw"
        )
    if abs(found.neighbours) * math.sqrt(len(curve.means)) > _TOLD:
        said.append(
            f"neighbouring residuals are correlated ({found.neighbours:+.2f}): the noise is not independent, "
            "or the run turns faster than the estimate follows"
        )
    if curve.probe is not None and not result.realised:
        said.append(f"{curve.probe.name} is too short to compare")
    return said


def as_object(result: Result) -> dict[str, Any]:
    """For ``--json``; what no number of prompts reaches is null."""
    curve, found = result.curve, result.findings
    return {
        "name": curve.name,
        "source": curve.source,
        "window": result.window,
        "lambda": result.negative_scale,
        "iterations": len(curve.means),
        "prompts": curve.prompts,
        "with_feedback": found.defined,
        "negative_share": found.negative,
        "negative_share_expected": found.negative_expected,
        "mean_coefficient": found.coefficient,
        "noise": found.noise,
        "noise_from": "prompts" if found.measured else "curve",
        "curve_noise": found.curve_noise,
        "stiffness": found.stiffness if math.isfinite(found.stiffness) else None,
        "neighbour_correlation": found.neighbours,
        "trend": _numbers(found.trend),
        "last_change": _question(found.last, curve.prompts, result.realised.get(1)),
        "change_against_window": _question(
            found.against_window, curve.prompts, result.realised.get(result.window)
        ),
        "notes": notes(result),
    }


def _row(result: Result, name: str, question: Question, measured: Agreement | None) -> tuple[str, ...]:
    realised = "not comparable"
    if measured is not None:
        realised = f"{_interval(measured.sign, '.2f')}, {measured.expected:.2f} by chance"
    return (
        name,
        _interval(question.probability, ".2f"),
        "0.50",
        f"{question.rises:.2f}",
        _prompts(question.factor, result.curve.prompts),
        realised,
    )


def _prompts(factor: Estimate, prompts: float | None) -> str:
    """Prompts per iteration, as a multiple of those there are where their number is not known."""
    bounds = [
        "no end" if math.isinf(f) else _count(f * prompts) if prompts else f"{f:.2g}"
        for f in (factor.low, factor.high)
    ]
    if math.isinf(factor.value):
        value = "no number does"
    else:
        value = _count(factor.value * prompts) if prompts else f"{factor.value:.2g} x as many"
    return f"{value} [{bounds[0]}, {bounds[1]}]"


def _count(prompts: float) -> str:
    """Whole prompts, to two figures: an estimate has no more."""
    digits = max(len(str(math.ceil(prompts))) - 2, 0)
    return f"{math.ceil(prompts / 10**digits) * 10**digits:,}"


def _interval(value: Estimate, form: str) -> str:
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"


def _numbers(value: Estimate) -> dict[str, float | None]:
    finite = {"value": value.value, "low": value.low, "high": value.high}
    return {name: number if math.isfinite(number) else None for name, number in finite.items()}


def _question(question: Question, prompts: float | None, measured: Agreement | None) -> dict[str, Any]:
    factor = question.factor
    found: dict[str, Any] = {
        "probability": _numbers(question.probability),
        "coin": 0.5,
        "always_better": question.rises,
        "prompts_factor": _numbers(factor),
        "prompts_needed": None if prompts is None or math.isinf(factor.value) else factor.value * prompts,
    }
    if measured is not None:
        found["realised"] = _numbers(measured.sign) | {"by_chance": measured.expected}
    return found
