"""The doctor's report: every protection with its state, and what a program could do just now."""

from __future__ import annotations

import pytest
from pipo_sandbox.settings import PROTECTIONS

from pipo.graders import doctor


def test_the_report_names_protections_versions_and_attempts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    doctor.main([])
    report = capsys.readouterr().out
    for word in (*PROTECTIONS, *doctor.ATTEMPTS, "torch", "vllm", "cores", "memory", "bubblewrap"):
        assert word in report
