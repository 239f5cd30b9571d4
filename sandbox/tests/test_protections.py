"""What is said about protections: one line on what is weak, and a report with every one of them."""

from __future__ import annotations

import pytest
from pipo_sandbox import PROTECTIONS, __main__, weakness


def test_weak_protection_is_said_in_one_line() -> None:
    active = dict.fromkeys(PROTECTIONS, "")
    assert weakness(active) is None
    assert weakness({**active, "namespaces": "refused"}) is None  # the filter and the file rules take over
    line = weakness(dict.fromkeys(PROTECTIONS, "refused"))
    assert line is not None
    assert "network" in line
    assert "files" in line
    assert "\n" not in line


def test_the_report_names_protections_and_attempts(capsys: pytest.CaptureFixture[str]) -> None:
    __main__.main([])
    report = capsys.readouterr().out
    for word in (*PROTECTIONS, *__main__.ATTEMPTS, "bubblewrap"):
        assert f"\n{word}" in report
