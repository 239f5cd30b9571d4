"""Show a plan: tables for a terminal, or plain values for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipo.plan.memory import CONTEXT, FRAGMENTS, GIB
from pipo.plan.plan import Plan, gib

MOST_WASTE = 0.05
"""Share of the updates above which a loss is worth looking at."""


def print_plan(plan: Plan, console: Console) -> None:
    """The page."""
    console.print(Group(*_page(plan)))


def _page(plan: Plan) -> list[RenderableType]:
    its = plan.sizes
    heading = (
        f"{plan.model}, {plan.parameters / 1e9:.2f} billion parameters, {its.processes} processes on "
        f"{its.nodes} x {plan.machine.name}. In each {its.rows} responses per iteration, about "
        f"{its.response:.0f} tokens long (at most {its.longest_response}) after prompts of {its.prompt:.0f} "
        f"(at most {its.longest_prompt}); {its.step_rows} per optimiser step, in {plan.work.passes:.3g} "
        "micro-batches."
    )
    if plan.trained < plan.parameters:
        heading += (
            f" Trained are {plan.trained / 1e6:.1f} million, {plan.trained / plan.parameters:.2%} of them: "
            f"with gradients and moments {gib(16 * plan.trained)} over all processes."
        )
    fullest = max(plan.phases, key=lambda phase: phase.total)
    left = gib(plan.machine.gpu.memory - fullest.total)
    said = [f"does not fit: {limit}" for limit in plan.limits] or [
        f"fits; {fullest.name} leaves least, {left}"
    ]
    if plan.limits:
        said.append(
            f"fits with {' '.join(plan.changes)}"
            if plan.changes
            else "nothing that was tried makes it fit: more GPUs, larger ones, or a smaller model"
        )
    assumed = ", ".join(f"{name}={value:g}" for name, value in plan.assume.model_dump().items())
    return [
        Text(heading),
        _memory(plan),
        _other(plan),
        _time(plan),
        _waste(plan),
        *(Text(line, style="bold") for line in said),
        *(Text(f"note: {note}") for note in plan.notes),
        Text(f"assumed (assume.<name>= changes it): {assumed}", style="dim"),
    ]


def _memory(plan: Plan) -> Table:
    """A column for each phase, a row for each part."""
    table = Table(title="memory of a GPU at the peak of each phase, GiB")
    table.add_column("")
    for phase in plan.phases:
        table.add_column(phase.name, justify="right")
    parts = dict.fromkeys(name for phase in plan.phases for name in phase.parts)
    for part in sorted(parts, key=lambda name: name in (FRAGMENTS, CONTEXT)):
        table.add_row(part, *(_number(phase.parts.get(part, 0)) for phase in plan.phases))
    table.add_section()
    table.add_row("together", *(f"{phase.total / GIB:.1f}" for phase in plan.phases), style="bold")
    free = (plan.machine.gpu.memory - phase.total for phase in plan.phases)
    table.add_row(f"left of {plan.machine.gpu.memory_gib:g}", *(f"{size / GIB:.1f}" for size in free))
    return table


def _number(size: int) -> str:
    return f"{size / GIB:.1f}" if abs(size) >= GIB / 20 else ("0.0" if size else "")


def _other(plan: Plan) -> Table:
    table = Table(title="main memory of a node, disk of the run")
    table.add_column("")
    table.add_column("", justify="right")
    for name, size in plan.host.items():
        table.add_row(f"main memory, {name}", gib(size))
    for name, size in plan.disk.items():
        table.add_row(f"disk, {name}", gib(size))
    if plan.sent:
        table.add_row("sent to the engine after an update", gib(plan.sent))
    return table


def _time(plan: Plan) -> Table:
    table = Table(title="seconds of an iteration")
    for each in ("", "seconds", "share"):
        table.add_column(each, justify="right" if each else "left")
    whole = plan.iteration_seconds
    for each in plan.seconds:
        table.add_row(each.name, f"{each.seconds:.1f}", f"{each.seconds / whole:.0%}")
    table.add_section()
    table.add_row("together", f"{whole:.1f}", "")
    run = whole * plan.iterations
    table.add_row(f"{plan.iterations} iterations, hours", f"{run / 3600:.1f}", "")
    table.add_row("evaluations before and after, minutes", f"{plan.evaluations / 60:.1f}", "")
    return table


def _waste(plan: Plan) -> Table:
    table = Table(title="of all updates, what a perfect machine would do without")
    for each in ("", "seconds", "share", f"below {MOST_WASTE:.0%}"):
        table.add_column(each, justify="right" if each else "left")
    whole = plan.updates.seconds
    for name, share in plan.updates.waste.items():
        table.add_row(name, f"{share * whole:.2f}", f"{share:.1%}", "yes" if share < MOST_WASTE else "no")
    return table


def as_object(plan: Plan) -> Mapping[str, Any]:
    """The same as plain values: bytes and seconds."""
    return {
        "model": plan.model,
        "parameters": plan.parameters,
        "trained": plan.trained,
        "gpus": plan.machine.name,
        "processes": plan.sizes.processes,
        "gpu_bytes": plan.machine.gpu.memory,
        "phases": {phase.name: {"bytes": phase.total, "parts": phase.parts} for phase in plan.phases},
        "main_memory_bytes": plan.host,
        "disk_bytes": plan.disk,
        "seconds": {each.name: each.seconds for each in plan.seconds},
        "update": asdict(plan.updates),
        "waste": plan.updates.waste,
        "optimiser_step": asdict(plan.work),
        "sent_bytes": plan.sent,
        "iterations": plan.iterations,
        "evaluation_seconds": plan.evaluations,
        "limits": plan.limits,
        "changes": plan.changes,
        "notes": plan.notes,
        "assumptions": plan.assume.model_dump(),
        "sizes": asdict(plan.sizes) | {"engine": plan.sizes.engine.model_dump()},
    }
