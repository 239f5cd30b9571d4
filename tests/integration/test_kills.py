"""Killed at the worst moments and resumed, a run is the one that was never killed, bit for bit.

``bench/kill_and_resume.py`` does the same at random moments, also with several processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_a_run_killed_at_the_worst_moments_equals_the_one_that_was_not(tmp_path):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("nasty_kills.py")), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    assert [line for line in lines if not line.endswith(": []")] == []


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "victims"), [(1, [0]), (2, [0, 1]), (2, [1])])
def test_a_run_killed_at_random_moments_equals_the_one_that_was_not(tmp_path, processes, victims):
    command = [
        sys.executable,
        str(ROOT / "bench/kill_and_resume.py"),
        "--kills",
        "3",
        "--keep",
        str(tmp_path),
    ]
    command += ["--processes", str(processes), "--victims", *map(str, victims)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 resumed runs equal the uninterrupted run bit for bit" in done.stdout
