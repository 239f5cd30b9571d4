"""The grader's worker processes: what a hang or a crash costs, and that none outlives its use."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipo.tasks.graders.math import MATH_WORKER, MathGrader
from pipo.tasks.graders.worker_pool import WorkerStartError

# Keeps to the protocol of worker_pool; misbehaves on the answers "hang" and "crash", and puts
# its process id where the error stands, so a test can see whether it is still there.
BAD_WORKER = """
import json, os, sys, time
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
connection.send_bytes(b"ready")
while True:
    try:
        (answer,), _ = json.loads(connection.recv_bytes())
    except EOFError:
        break
    if answer == "hang":
        time.sleep(3600)
    if answer == "crash":
        os._exit(7)
    connection.send_bytes(json.dumps({"equal": answer == "same", "error": str(os.getpid())}).encode())
"""


@pytest.fixture
def bad_program(tmp_path: Path) -> Path:
    program = tmp_path / "bad_worker.py"
    program.write_text(BAD_WORKER)
    return program


def ended(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process is gone, or dead and only waits for its parent to notice."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def run_script(script: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()


@pytest.mark.parametrize("workers", [1, 3])
def test_hang_and_crash_cost_only_their_own_answer(bad_program: Path, workers: int) -> None:
    grader = MathGrader(workers=workers, timeout_s=1.0, program=bad_program)
    answers = ["same", "hang", "crash", "other", "crash", "same", "hang", "same"]
    pairs = [(f"\\boxed{{{a}}}", f"ref {i}") for i, a in enumerate(answers)]
    for _ in range(2):  # the second time on the workers that are left
        rewards = grader.grade_batch(pairs)
        assert [r.score for r in rewards] == [float(a == "same") for a in answers]
        assert [r.answer for r in rewards] == answers
        for answer, reward in zip(answers, rewards, strict=True):
            assert reward.error is not None
            if answer == "hang":
                assert reward.error == "timed out after 1 s"
            elif answer == "crash":
                assert reward.error == "worker died (exit code 7)"
    grader.close()


def test_worker_killed_between_batches_costs_nothing(bad_program: Path) -> None:
    grader = MathGrader(workers=1, timeout_s=5.0, program=bad_program)
    pid = int(grader.grade(r"\boxed{same}", "a").error or "")
    os.kill(pid, 9)
    assert ended(pid)
    reward = grader.grade(r"\boxed{same}", "b")
    grader.close()
    assert reward.score == 1.0
    assert reward.error not in (None, str(pid))


def test_equal_pairs_are_graded_once(bad_program: Path) -> None:
    grader = MathGrader(workers=1, timeout_s=0.5, program=bad_program)
    start = time.monotonic()
    rewards = grader.grade_batch([(r"\boxed{hang}", "a")] * 50)
    grader.close()
    assert time.monotonic() - start < 5
    assert {r.error for r in rewards} == {"timed out after 0.5 s"}
    assert len(rewards) == 50


def test_close_ends_the_workers_and_the_grader_stays_usable(bad_program: Path) -> None:
    grader = MathGrader(workers=1, timeout_s=5.0, program=bad_program)
    first = int(grader.grade(r"\boxed{same}", "a").error or "")
    grader.close()
    grader.close()
    assert ended(first, within_s=1.0)
    second = int(grader.grade(r"\boxed{same}", "a").error or "")
    assert second != first
    del grader
    assert ended(second)


def test_nothing_is_left_when_the_interpreter_ends(bad_program: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from pipo.tasks.graders.math import MathGrader
grader = MathGrader(workers=1, timeout_s=60.0, program=Path(sys.argv[1]))
print(grader.grade("\\\\boxed{same}", "a").error, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""
    assert ended(int(run_script(script, str(bad_program), "normal")[0]))
    command = [sys.executable, "-c", script, str(bad_program), "killed"]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == -9
    assert ended(int(killed.stdout))


def test_forked_process_gets_workers_of_its_own(bad_program: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from pipo.tasks.graders.math import MathGrader
grader = MathGrader(workers=1, timeout_s=60.0, program=Path(sys.argv[1]))
ask = lambda: print(grader.grade("\\\\boxed{same}", "a").error, flush=True)
ask()
child = os.fork()
if child == 0:
    ask()
    sys.exit()
os.waitpid(child, 0)
ask()
"""
    parent, child, parent_again = run_script(script, str(bad_program))
    assert parent == parent_again != child


def test_pickled_grader_starts_workers_of_its_own(bad_program: Path) -> None:
    grader = MathGrader(workers=1, timeout_s=5.0, program=bad_program)
    first = grader.grade(r"\boxed{same}", "a").error
    copy = pickle.loads(pickle.dumps(grader))
    second = copy.grade(r"\boxed{same}", "a").error
    copy.close()
    assert grader.grade(r"\boxed{same}", "a").error == first != second
    grader.close()


def test_worker_imports_neither_torch_nor_the_project() -> None:
    script = """
import runpy, sys
worker = runpy.run_path(sys.argv[1])
assert worker["compare"](["1/2"], ["5/10"]) == {"equal": True, "readable": True, "error": None}
print(*[m for m in ("torch", "pipo", "transformers") if m in sys.modules], "end")
"""
    assert run_script(script, str(MATH_WORKER)) == ["end"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise SystemExit(3)", r"worker died \(exit code 3\)"),
        (
            "import sys; from multiprocessing.connection import Connection\n"
            "Connection(int(sys.argv[1])).send_bytes(b'No module named math_verify')",
            "No module named math_verify",
        ),
    ],
)
def test_worker_that_cannot_start_is_an_error(tmp_path: Path, body: str, reason: str) -> None:
    program = tmp_path / "broken.py"
    program.write_text(body)
    grader = MathGrader(workers=2, timeout_s=5.0, program=program)
    with pytest.raises(WorkerStartError, match=reason):
        grader.grade(r"\boxed{x}", "y")
    grader.close()
