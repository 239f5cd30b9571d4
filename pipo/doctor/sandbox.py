"""Protections that keep programs under test away from this machine, and the weakness that is left."""

from __future__ import annotations

from pipo_sandbox.client import Launcher, SandboxError
from pipo_sandbox.protections import NOT_NEEDED, PROTECTIONS, weakness
from pipo_sandbox.settings import Limits

from pipo.doctor.finding import Finding

ABOUT = "programs under test"


def sandbox() -> Finding:
    """The protections that are active; their absence is advised on where it lets a program out."""
    try:
        with Launcher(limits=Limits(cpu_s=5, memory_mb=512, output_kb=64), slots=1) as launcher:
            report = dict(launcher.report)
    except SandboxError as error:
        return Finding(about=ABOUT, name="sandbox", found="no program can be run", advice=str(error))
    active = [name for name in PROTECTIONS if report[name] in ("", NOT_NEEDED)]
    missing = [name for name in PROTECTIONS if name not in active]
    found = f"active: {', '.join(active) or 'nothing'}"
    if missing:
        found += f"; not active: {', '.join(missing)}"
    return Finding(about=ABOUT, name="sandbox", found=found, advice=weakness(report))
