"""The grader's worker processes: what a hang or a crash costs, and that none outlives its use."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipo.graders.math import MATH_WORKER, MathGrader
from pipo.graders.worker_pool import WorkerStartError

# Keeps to the protocol of worker_pool; misbehaves on the answers "hang", "crash" and "killed", and puts
# its process id where the error stands, so a test can see whether it is still there.
BAD_WORKER = """
import json, os, sys, time
from pathlib import Path
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
    if answer == "killed" or answer == "killed once" and not Path(__file__).with_suffix(".once").exists():
        Path(__file__).with_suffix(".once").touch()
        os.kill(os.getpid(), 9)
    equal = answer in ("same", "killed once")
    connection.send_bytes(json.dumps({"equal": equal, "error": str(os.getpid())}).encode())
"""


@pytest.fixture
def bad_program(tmp_path: Path) -> Path:
    program = tmp_path / "bad_worker.py"
    program.write_text(BAD_WORKER)
    return program


def ended(pid: int, within_s: float = 300.0) -> bool:
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
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("workers", [1, 3])
def test_hang_and_crash_cost_only_their_own_answer(bad_program: Path, workers: int) -> None:
    grader = MathGrader(workers=workers, cpu_s=0.5, wall_s=1.0, program=bad_program)
    answers = ["same", "hang", "crash", "other", "crash", "same", "killed", "same"]
    pairs = [(f"\\boxed{{{a}}}", f"ref {i}") for i, a in enumerate(answers)]
    for _ in range(2):  # the second time on the workers that are left
        rewards = grader.grade_batch(pairs)
        assert [r.score for r in rewards] == [float(a == "same") for a in answers]
        assert [r.answer for r in rewards] == answers
        for answer, reward in zip(answers, rewards, strict=True):
            assert reward.error is not None
            assert reward.infrastructure == (answer in ("hang", "killed"))
            if answer == "hang":
                assert reward.error == "no answer within 1 s of wall-clock time, twice"
            elif answer == "killed":
                assert reward.error == "worker killed from outside (SIGKILL), twice"
            elif answer == "crash":
                assert reward.error == "worker died (exit code 7)"
    grader.close()


def test_an_answer_whose_worker_something_else_killed_is_tried_again(bad_program: Path) -> None:
    grader = MathGrader(workers=1, cpu_s=5.0, wall_s=60.0, program=bad_program)
    first, second = grader.grade_batch([(r"\boxed{killed once}", "a"), (r"\boxed{same}", "b")])
    grader.close()
    assert (first.score, first.infrastructure, second.score) == (1.0, False, 1.0)
    assert first.error == second.error  # the worker that took its place did the rest


# The real worker, with a comparison that takes as much processor time as the answer says.
BURNING_WORKER = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("worker", {worker!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

def compare(answers, references):
    until = time.process_time() + {{"short": 0.2, "endless": 3600.0}}.get(answers[0], 0.0)
    while time.process_time() < until:
        pass
    return {{"equal": True, "readable": True, "error": None}}

worker.compare = compare
worker.main()
"""


@pytest.fixture
def one_busy_core() -> Iterator[None]:
    """This process and what it starts on one core, which three other processes keep busy."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    yield
    for other in others:
        other.kill()
        other.wait()
    os.sched_setaffinity(0, before)


def test_verdicts_do_not_depend_on_what_else_the_machine_does(tmp_path: Path, one_busy_core: None) -> None:
    """0.2 s of processor time take 0.8 s beside three others, and still are within the limit of 0.4 s."""
    program = tmp_path / "burning_worker.py"
    program.write_text(BURNING_WORKER.format(worker=str(MATH_WORKER)))
    grader = MathGrader(workers=1, cpu_s=0.4, wall_s=300.0, program=program)
    within, above = grader.grade_batch([(r"\boxed{short}", "a"), (r"\boxed{endless}", "b")])
    grader.close()
    assert (within.score, within.error) == (1.0, None)
    assert (above.score, above.infrastructure) == (0.0, False)
    assert above.error == "took more than 0.4 s of processor time"


def test_worker_killed_between_batches_costs_nothing(bad_program: Path) -> None:
    grader = MathGrader(workers=1, cpu_s=5.0, wall_s=60.0, program=bad_program)
    pid = int(grader.grade(r"\boxed{same}", "a").error or "")
    os.kill(pid, 9)
    assert ended(pid)
    reward = grader.grade(r"\boxed{same}", "b")
    grader.close()
    assert reward.score == 1.0
    assert reward.error not in (None, str(pid))


def test_equal_pairs_are_graded_once(bad_program: Path) -> None:
    grader = MathGrader(workers=1, cpu_s=5.0, wall_s=60.0, program=bad_program)
    rewards = grader.grade_batch([(r"\boxed{crash}", "a"), (r"\boxed{same}", "b")] * 50)
    grader.close()
    assert {r.error for r in rewards[::2]} == {"worker died (exit code 7)"}
    assert len({r.error for r in rewards[1::2]}) == 1  # one worker, although fifty answers crash theirs
    assert len(rewards) == 100


def test_close_ends_the_workers_and_the_grader_stays_usable(bad_program: Path) -> None:
    grader = MathGrader(workers=1, cpu_s=5.0, wall_s=60.0, program=bad_program)
    first = int(grader.grade(r"\boxed{same}", "a").error or "")
    grader.close()
    grader.close()
    assert ended(first)
    second = int(grader.grade(r"\boxed{same}", "a").error or "")
    assert second != first
    del grader
    assert ended(second)


def test_nothing_is_left_when_the_interpreter_ends(bad_program: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from pipo.graders.math import MathGrader
grader = MathGrader(workers=1, cpu_s=60.0, wall_s=600.0, program=Path(sys.argv[1]))
print(grader.grade("\\\\boxed{same}", "a").error, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""
    assert ended(int(run_script(script, str(bad_program), "normal")[0]))
    command = [sys.executable, "-c", script, str(bad_program), "killed"]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -9
    assert ended(int(killed.stdout))


def test_forked_process_gets_workers_of_its_own(bad_program: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from pipo.graders.math import MathGrader
grader = MathGrader(workers=1, cpu_s=60.0, wall_s=600.0, program=Path(sys.argv[1]))
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
    grader = MathGrader(workers=1, cpu_s=5.0, wall_s=60.0, program=bad_program)
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
        ("import os; os.kill(os.getpid(), 9)", r"worker died \(exit code -9\)"),
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
    grader = MathGrader(workers=2, cpu_s=5.0, wall_s=60.0, program=program)
    with pytest.raises(WorkerStartError, match=reason):
        grader.grade(r"\boxed{x}", "y")
    grader.close()
