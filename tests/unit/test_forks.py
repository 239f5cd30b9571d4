"""Processes of a run that are forked from the first one, once all is imported."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipo.distributed import forks
from pipo.distributed.hardware import Hardware
from pipo.errors import RunFailed
from tests.programs import environment_of_programs

HARDWARE = {"accelerator": "cpu", "devices": 2, "num_nodes": 1, "strategy": "ddp"}
NEVER_STARTED = "from pipo.distributed.forks import fork_others; fork_others(3); print('the first')"


def _note(folder: Path) -> None:
    """Three processes, each of which writes down what it is told, and that it has ended in good order."""
    forks.fork_others(3)
    forks.start_others()
    rank = os.environ["LOCAL_RANK"]
    atexit.register((folder / f"{rank}.ended").touch)
    names = ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    (folder / f"{rank}.json").write_text(json.dumps({name: os.environ[name] for name in names}))
    forks.end_if_forked(0)
    while len(list(folder.glob("*.ended"))) < 2:
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_each_process_is_told_what_lightning_tells_the_programs_that_it_starts(tmp_path):
    # Out of the server of the tests' programs, which has imported everything and has one thread.
    process = multiprocessing.get_context("forkserver").Process(target=_note, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    port = told[0]["MASTER_PORT"]
    rest = {"WORLD_SIZE": "3", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    assert told == [{"LOCAL_RANK": rank, **rest} for rank in ("0", "1", "2")]
    assert int(port) > 0


def _start_with_a_dead_one(folder: Path) -> None:
    """Ctrl-C reaches two that wait, and the second is killed."""
    forks.fork_others(3)
    spared, killed = forks._waiting
    for each in (spared, killed):
        each.send_signal(signal.SIGINT)
    killed.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    try:
        forks.start_others()
    except RunFailed as error:
        (folder / "said").write_text(str(error))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_one_that_was_killed_while_it_waited_is_told_in_one_line(tmp_path):
    process = multiprocessing.get_context("forkserver").Process(
        target=_start_with_a_dead_one, args=(tmp_path,)
    )
    process.start()
    process.join()
    said = (tmp_path / "said").read_text()
    # The other one has outlived the Ctrl-C, which is the first one's to answer.
    assert said.startswith("process 3 of 3 of this run was killed before it began;")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_those_that_are_never_started_end_with_the_first():
    # Returns only when none of the three has its output open any more.
    done = subprocess.run(
        [sys.executable, "-c", NEVER_STARTED], capture_output=True, text=True, env=environment_of_programs()
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "the first\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
@pytest.mark.parametrize(
    ("hardware", "variables", "expected"),
    [
        ({}, {}, True),
        ({"strategy": "fsdp", "devices": 3}, {}, True),
        ({"devices": 1}, {}, False),
        ({"strategy": "single"}, {}, False),
        ({"num_nodes": 2}, {}, False),
        ({"accelerator": "cuda"}, {}, False),
        ({}, {"LOCAL_RANK": "0"}, False),
        ({}, {"WORLD_SIZE": "2"}, False),
        ({}, {"SLURM_NTASKS": "2"}, False),
    ],
)
def test_what_may_be_forked(monkeypatch, hardware, variables, expected):
    monkeypatch.setattr(forks, "_single_threaded", lambda: True)  # those who run tests may have threads
    for name in (*forks.OF_THIS_PROCESS, "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert forks.can_fork(Hardware(**{**HARDWARE, **hardware})) == expected
