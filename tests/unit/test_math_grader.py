"""The grader of boxed answers: what it reads, what it accepts, and what a bad worker costs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipo.tasks.base import Reward, TaskError
from pipo.tasks.graders.math import MATH_WORKER, MAX_ANSWER_CHARS, MathGrader, last_boxed, quick_verdict
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
        answer, reference = json.loads(connection.recv_bytes())
    except EOFError:
        break
    if answer == "hang":
        time.sleep(3600)
    if answer == "crash":
        os._exit(7)
    connection.send_bytes(json.dumps({"equal": answer == "same", "error": str(os.getpid())}).encode())
"""


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(workers=1, timeout_s=30.0)
    yield grader
    grader.close()


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


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{5}.", "5"),
        (r"first \boxed{4}, no: \boxed{ 5 }", "5"),
        (r"\boxed{\frac{1}{\sqrt{2}}} done {really}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed {8}", "8"),
        (r"\boxed{3} and then \boxed{4", "3"),  # the last one is cut off, so it is no box
        (r"\boxed{4 and \frac{1}{2}", None),
        (r"open { brace \boxed{6}", "6"),
        (r"closed } brace \boxed{6}}}", "6"),
        (r"\boxed{\left\{1,2\right.}", r"\left\{1,2\right."),  # escaped braces do not count
        (r"\boxed{1}\boxed{}", ""),
        ("\\boxed{1\n2}", "1\n2"),
        (r"\fbox{5} boxed{5} \boxed 5", None),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_last_boxed(response: str, answer: str | None) -> None:
    assert last_boxed(response) == answer


@pytest.mark.parametrize(
    ("answer", "reference", "verdict"),
    [
        ("1,000", "1000", True),
        ("1{,}000", "1000", True),
        (r"1,\!234,\!567.50", "1234567.5", True),
        ("5.", "5", True),
        ("5.0", "5", True),
        (".5", "0.50", True),
        ("-0", "0", True),
        ("+7", "7", True),
        ("007", "7", True),
        ("$5$", "5", True),
        (r"\$18", "18", True),
        ("-$18.00", "-18", True),
        (r"20\%", "20", True),
        ("5", "6", False),
        ("0.3333", "0.333", False),  # numbers as written, not rounded
        ("9" * 400, "9" * 399 + "8", False),
        ("x+1", "x+1", True),
        ("1,2", "12", None),  # a pair
        ("12,34", "1234", None),  # not a group of three digits
        ("1 2", "12", None),
        ("1/2", "0.5", None),
        ("1e3", "1000", None),
        ("٥", "5", None),  # noqa: RUF001 - another script's digit is math-verify's business
        ("5 apples", "5", None),
    ],
)
def test_quick_verdict(answer: str, reference: str, verdict: bool | None) -> None:
    assert quick_verdict(answer, reference) is verdict


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("1/2", "0.5", 1.0),
        (r"\frac12", "0.5", 1.0),
        (r"1\frac{1}{2}", "1.5", 1.0),
        (r"5\text{ dollars}", "5", 1.0),
        (r"90^\circ", "90", 1.0),
        ("x=5", "5", 1.0),
        ("1+x^2", "x^2+1", 1.0),
        (r"\sqrt{4}", "2", 1.0),
        (r"\{2,1\}", r"\{1,2\}", 1.0),
        (r"\text{Monday}", "Monday", 1.0),
        ("(2,1)", "(1,2)", 0.0),
        ("1,2", "12", 0.0),
        ("5 or 6", "6", 0.0),
        (r"\text{Tuesday}", "Monday", 0.0),
        ("4:00", "3:00", 0.0),
        (r"\frac{}{}", "2", 0.0),
        (r"2\\3", "2", 0.0),
        (r"\frac{1}{0}", "0", 0.0),
    ],
)
def test_math_verify_verdict(grader: MathGrader, answer: str, reference: str, score: float) -> None:
    assert grader.grade(f"\\boxed{{{answer}}}", reference) == Reward(score=score, answer=answer)


def test_no_answer_scores_zero_without_error(grader: MathGrader) -> None:
    for response in ("no box: 5", r"\boxed{}", r"\boxed{  }", r"\boxed{5"):
        assert grader.grade(response, "5") == Reward(score=0.0)


def test_overlong_answer_is_not_looked_at(grader: MathGrader) -> None:
    start = time.monotonic()
    reward = grader.grade("\\boxed{" + "1" * 10_000_000 + "}", "1")
    assert time.monotonic() - start < 5
    assert reward.score == 0.0
    assert reward.error is not None
    assert str(MAX_ANSWER_CHARS) in reward.error
    assert reward.answer is not None
    assert len(reward.answer) == 100


def test_unreadable_reference_is_an_error_not_a_wrong_answer(grader: MathGrader) -> None:
    reward = grader.grade(r"\boxed{x}", "3:00:")
    assert reward.score == 0.0
    assert reward.error is None or "reference" in reward.error


def test_huge_power_times_out_and_the_rest_is_graded() -> None:
    grader = MathGrader(workers=2, timeout_s=1.0)
    start = time.monotonic()
    hard = [(r"\boxed{10^{10^{10}}}", "5"), (r"\boxed{9^{9^{9^9}}}", "5")]
    easy = [(f"\\boxed{{{i}/7}}", f"\\frac{{{i}}}{{7}}") for i in range(1, 6)]
    rewards = grader.grade_batch([easy[0], *hard, *easy[1:], (r"\boxed{3}", "3")])
    grader.close()
    assert time.monotonic() - start < 20
    assert [r.score for r in rewards] == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert [r.error for r in rewards[1:3]] == ["timed out after 1 s"] * 2
    assert [r.error for r in rewards[:1] + rewards[3:]] == [None] * 6


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


def test_works_outside_the_main_thread(grader: MathGrader) -> None:
    rewards: list[Reward] = []
    threads = [
        threading.Thread(target=lambda i=i: rewards.append(grader.grade(f"\\boxed{{{i}/8}}", str(i / 8))))
        for i in range(1, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [r.score for r in rewards] == [1.0] * 4


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
assert worker["compare"]("1/2", "0.5") == {"equal": True, "error": None}
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


def test_plain_numbers_start_no_worker(tmp_path: Path) -> None:
    grader = MathGrader(workers=1, timeout_s=5.0, program=tmp_path / "does_not_exist.py")
    rewards = grader.grade_batch([(f"\\boxed{{{i}}}", "3") for i in range(5)])
    assert [r.score for r in rewards] == [0.0, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(("workers", "timeout_s"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, float("inf"))])
def test_bad_options(workers: int, timeout_s: float) -> None:
    with pytest.raises(TaskError, match="grader"):
        MathGrader(workers=workers, timeout_s=timeout_s)
