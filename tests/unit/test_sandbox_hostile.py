"""Hostile programs get what their answers are worth, reach nothing, and leave nothing running.

Each runs under several sets of protections, so that those further back are tried too and
not only the first that refuses. Sets that this system does not allow are skipped, with the reason.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipo_sandbox import client
from pipo_sandbox.settings import PROTECTIONS

from pipo.graders.code import CodeGrader
from tests.hostile_programs import REACH, STDIN, doubled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the protections are those of Linux")

ALWAYS = ("no new privileges", "resource limits", "process limit")
LAYERS: dict[str, tuple[str, ...]] = {
    "everything": tuple(PROTECTIONS),
    "namespaces": ("namespaces", "own user", *ALWAYS),
    "filter": ("own user", "system call filter", "file rules", *ALWAYS),
}
MEMORY_MB = 517  # a number that no other test uses: it stands in the command line of the processes


@pytest.fixture(params=LAYERS)
def grader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[CodeGrader]:
    monkeypatch.setattr(client, "USE", LAYERS[request.param])
    grader = make_grader()
    report = grader.protections()
    decisive = {"everything": "namespaces", "namespaces": "namespaces", "filter": "system call filter"}
    if reason := report[decisive[request.param]]:
        grader.close()
        pytest.skip(f"{decisive[request.param]}: {reason}")
    yield grader
    assert left_running() == 1, "only the launcher may be left"
    grader.close()
    assert left_running() == 0


def make_grader() -> CodeGrader:
    return CodeGrader(
        reward="fraction",
        workers=12,
        timeout_s=3.0,
        total_s=6.0,
        max_timeouts=1,
        cpu_s=2,
        wall_factor=100.0,  # on a busy machine too
        memory_mb=MEMORY_MB,
        output_kb=256,
        float_tolerance=0.0,
    )


def left_running() -> int:
    """Processes forked from a launcher of this file, the launcher included."""
    found = 0
    for folder in Path("/proc").iterdir():
        try:
            found += folder.name.isdigit() and f'"memory_mb": {MEMORY_MB}' in (folder / "cmdline").read_text()
        except OSError:
            continue
    return found


def test_hostile_programs_get_what_their_answers_are_worth(grader: CodeGrader) -> None:
    rewards = grader.grade_batch([doubled(program) for program, _ in STDIN.values()])
    got = {name: reward.score for name, reward in zip(STDIN, rewards, strict=True)}
    assert got == {n: got[n] if score is None else score for n, (_, score) in STDIN.items()}
    assert [r.error for r in rewards] == [None] * len(rewards)
    assert grader.grade(doubled("print(int(input()) * 2)")).score == 1.0


def test_programs_reach_nothing_outside(
    grader: CodeGrader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, shared, secret = tmp_path / "home", tmp_path / "shared", tmp_path / "expected.json"
    home.mkdir()
    shared.mkdir()
    shared.chmod(0o777)
    tmp_path.chmod(0o755)
    secret.write_text("14")
    monkeypatch.setenv("PIPO_SECRET", "14")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        port = server.getsockname()[1]
        unix.bind(f"\0pipo-test-{port}")
        unix.listen()
        values = {"home": str(home), "shared": str(shared), "secret": str(secret), "port": port}
        values |= {"pid": os.getpid(), "uid": os.getuid()}
        programs = {name: text.format(**values) + "\nprint(14)" for name, text in REACH.items()}
        rewards = grader.grade_batch([doubled(program) for program in programs.values()])
    reached = {name for name, reward in zip(REACH, rewards, strict=True) if reward.score}
    # By itself harmless: in a namespace of its own a program has rights over nothing but that.
    assert reached <= ({"new user namespace"} if grader.protections()["system call filter"] else set())
    assert [r.error for r in rewards] == [None] * len(rewards)
    assert sorted(tmp_path.rglob("*")) == [secret, home, shared]
