"""What a program has used is told at its next step, read from its clock or asked for."""

from __future__ import annotations

import sys

import pytest
from pipo_sandbox import Closed, Launcher, Limits, call_program, client, encode
from pipo_sandbox.protections import PROTECTIONS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the clock of another process is Linux's")

WORKS = "import time\ndef f(until):\n    while time.process_time() < until: pass\n"
ENDS = "import os\ndef f(until): os._exit(0)\n"


# Without the system call filter a program may have children, which only its sandbox can add up.
@pytest.mark.parametrize("use", [PROTECTIONS, [name for name in PROTECTIONS if name != "system call filter"]])
def test_what_a_step_has_used_is_told_at_the_next(use: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "USE", tuple(use))
    told: list[float] = []

    def allow(used_s: float) -> float:
        told.append(used_s)
        return 60.0

    def steps(source: str, *arguments: float) -> None:
        with call_program(launcher, runs=9, answer_bytes=1 << 10, allow=allow, wall_s=300.0) as program:
            program.load(source)
            _, (_, f) = program.function("f")
            for argument in arguments:
                program.call(f, encode((argument,)))

    with Launcher(limits=Limits(cpu_s=60, memory_mb=256, output_kb=64), slots=1) as launcher:
        steps(WORKS, 0.1, 0.2, 0.0)
        # Told before: loading, the look-up, a call of 0.1 s, one until 0.2 s in all, one of nothing.
        assert told[3] >= 0.1
        assert told[4] >= 0.2
        assert told == sorted(told)
        told.clear()
        with pytest.raises(Closed):
            steps(ENDS, 0.0, 0.0)
