"""How a program of several processes ends: the first tells, the others must not look like failures."""

from __future__ import annotations

import pytest

from pipo.config.cli import exit_code
from pipo.errors import RunFailed, RunStopped


def ending(error: Exception):
    def run() -> None:
        raise error

    return run


AGREED = [RunStopped("SIGTERM: stopped", 143), RunFailed("the disk is full", agreed=True)]


@pytest.mark.parametrize(("error", "code"), list(zip(AGREED, (143, 1), strict=True)))
def test_the_first_process_says_how_a_run_ended(error, code, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert exit_code(ending(error))[0] == code
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize("error", AGREED)
def test_the_others_end_quietly_because_a_failure_would_kill_the_first_while_it_writes(
    error, monkeypatch, capsys
):
    monkeypatch.setenv("RANK", "1")
    assert exit_code(ending(error))[0] == 0
    assert capsys.readouterr().err == ""


def test_a_failure_of_one_process_alone_is_a_failure(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert exit_code(ending(RunFailed("the engine broke")))[0] == 1
    assert "the engine broke" in capsys.readouterr().err
