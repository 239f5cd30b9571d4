"""The doctor's report: versions, hardware, and the sandbox's own report on the system."""

from __future__ import annotations

import pytest

from pipo.graders import doctor


def test_the_report_names_versions_hardware_and_protections(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    doctor.main([])
    report = capsys.readouterr().out
    for word in ("torch", "vllm", "cores", "memory", "protections of programs under test", "tried just now"):
        assert word in report
