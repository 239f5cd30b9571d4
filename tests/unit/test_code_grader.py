"""Verdicts on programs: by what they print, by what they return, and by a data set's own test code."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipo_sandbox import SandboxError

from pipo.errors import TaskError
from pipo.graders import code
from pipo.graders.code import CodeGrader
from pipo.graders.code_rules import Run
from pipo.graders.code_tests import AssertTests, CallTests, ProgramJob, StdinTests
from pipo.graders.program_output import same_output

OPTIONS: dict[str, Any] = {
    "reward": "fraction",
    "workers": 2,
    "timeout_s": 5.0,
    "total_s": 60.0,
    "batch_s": 3600.0,
    "max_timeouts": 1,
    "cpu_s": 5,
    "wall_factor": 100.0,  # the tests may run on a busy machine
    "memory_mb": 513,
    "output_kb": 64,
    "float_tolerance": 1e-6,
}

LIAR = (
    "class Liar(int):\n"
    "    def __eq__(self, other): return True\n"
    "    def __ne__(self, other): return False\n"
    "    def __lt__(self, other): return True\n"
    "    __gt__ = __le__ = __ge__ = __contains__ = __lt__\n"
    "    def __hash__(self): return 0\n"
    "    def __reduce__(self): return int, (3,)\n"
    "    def __len__(self): return 1\n"
    "    def __iter__(self): return iter([3])\n"
    "class Chameleon:\n"
    "    __class__ = int\n"
    "    def __eq__(self, other): return True\n"
    "    def __bool__(self): return True\n"
)


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    grader = CodeGrader(**OPTIONS)
    yield grader
    grader.close()


def prints(program: str | None, *pairs: tuple[str, str]) -> ProgramJob:
    inputs, outputs = zip(*(pairs or [("7\n", "14\n")]), strict=True)
    return ProgramJob(program=program, tests=StdinTests(inputs=inputs, outputs=outputs))


def calls(program: str, *pairs: tuple[tuple[Any, ...], Any], maybe_wrapped: bool = False) -> ProgramJob:
    arguments, expected = zip(*pairs, strict=True)
    tests = CallTests(function="f", arguments=arguments, expected=expected, maybe_wrapped=maybe_wrapped)
    return ProgramJob(program=program, tests=tests)


def asserts(program: str, *statements: str, setup: str = "", entry_point: str | None = None) -> ProgramJob:
    tests = AssertTests(setup=setup, statements=statements, entry_point=entry_point)
    return ProgramJob(program=program, tests=tests)


def test_a_result_may_be_wrapped_where_the_row_does_not_say(grader: CodeGrader) -> None:
    same = "def f(x): return x"
    pairs = [((3,), [3]), (([3],), [3]), (([[3]],), [[3]]), (([3],), [[3]]), (({1: 2},), [{1: 2}]), ((3,), 3)]
    wrong = [(([[3]],), [3]), (([3],), 3), ((3,), [[3]]), ((3,), [3, 3]), (([],), [[3]]), ((3,), [4])]
    jobs = [calls(same, pair, maybe_wrapped=True) for pair in pairs + wrong]
    assert [r.score for r in grader.grade_batch(jobs)] == [1.0] * len(pairs) + [0.0] * len(wrong)
    assert grader.grade(calls(same, ((3,), [3]))).score == 0.0


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("14\n", "14", True),
        ("  14  \n\n\n", "14\n", True),
        ("1  2\t3 \n4", "1 2 3\n4\n", True),
        ("1\r\n2\r\n", "1\n2\n", True),
        ("1 2\n3", "1\n2 3", False),  # lines count
        ("1\n\n2", "1\n2", False),  # an empty line within the text too
        ("YES", "Yes", False),
        ("14.0", "14", True),
        ("014", "14", True),
        ("1e1", "10", True),
        ("14.0000001", "14", False),  # an integer is met exactly
        ("100000000000000000001", "100000000000000000000", False),
        ("0.333333", "0.3333333333", True),
        ("0.33333", "0.3333333333", False),
        ("1000000.5", "1000000.9", True),  # 4e-7 of it
        ("1000000.5", "1000002.5", False),
        ("nan", "NaN", False),
        ("inf", "Infinity", False),
        ("1_0", "10", False),
        ("١٤", "14", False),
        ("1e9999999999", "1.5", False),
        ("", "", True),
        ("", "0", False),
        ("9" * 5000, "9" * 5001, False),
        ("0" + "9" * 50_000, "9" * 50_000, True),
        ("9" * 50_000 + ".0", "9" * 50_000, True),
        ("9" * 49_999 + "8", "9" * 50_000, False),
    ],
)
def test_outputs_are_compared_by_lines_tokens_and_numbers(printed: str, expected: str, same: bool) -> None:
    assert same_output(printed, expected, 1e-6) is same


def test_without_tolerance_decimal_fractions_are_exact() -> None:
    assert same_output("0.50", "0.5", 0.0)
    assert not same_output("0.3333333", "0.33333333", 0.0)


def test_reward_is_the_share_of_tests_or_all_of_them(grader: CodeGrader) -> None:
    half = prints(
        "n = int(input())\nprint(2 * n if n > 0 else 0)", ("1", "2"), ("-1", "-2"), ("2", "4"), ("-2", "-4")
    )
    reward = grader.grade(half)
    assert (reward.score, reward.error) == (0.5, None)
    assert reward.feedback == "Test 2 of 4 failed: wrong output\nInput: -1\nOutput: 0"
    assert "-2" not in reward.feedback  # what should have been printed stays hidden
    strict = CodeGrader(**{**OPTIONS, "reward": "all_pass"})
    assert [r.score for r in strict.grade_batch([half, prints("print(2 * int(input()))")])] == [0.0, 1.0]
    strict.close()


def test_no_program_scores_nothing_and_is_no_error(grader: CodeGrader) -> None:
    reward = grader.grade(prints(None))
    assert (reward.score, reward.answer, reward.error, reward.feedback) == (0.0, None, None, None)


def test_every_test_starts_from_the_same_state(grader: CodeGrader) -> None:
    program = (
        "import os, sys, builtins\n"
        "left = os.listdir('.') + [x for x in ('mark',) if hasattr(builtins, x)]\n"
        "open('file', 'w').close(); builtins.mark = 1\n"
        "print(len(left))"
    )
    assert grader.grade(prints(program, ("", "0"))).score == 1.0
    program = program.replace("open('file', 'w').close(); ", "")
    assert grader.grade(prints(program, ("", "0"), ("", "0"))).score == 1.0


def test_files_are_private_and_gone_before_the_next_test(grader: CodeGrader) -> None:
    program = (
        "import os, tempfile\n"
        # Files alone: an environment that lies below /tmp is seen there as a folder.
        "print(len(os.listdir('.')) + sum(e.is_file() for e in os.scandir(tempfile.gettempdir())))\n"
        "with tempfile.NamedTemporaryFile('w', delete=False) as file:\n    file.write('x')\n"
        "print(open(file.name).read())\n"
        "os.makedirs('a/b')\nopen('a/b/c', 'w').write('y')\nos.symlink('/', 'a/d')\nos.chmod('a', 0)\n"
        # Deeper than a path reaches.
        "for _ in range(300):\n    os.mkdir('d' * 20)\n    os.chdir('d' * 20)\n"
    )
    rewards = grader.grade_batch([prints(program, ("", "0\nx"), ("", "0\nx"), ("", "0\nx"))] * 2)
    assert [(r.score, r.feedback, r.error) for r in rewards] == [(1.0, None, None)] * 2
    if not grader.protections()["namespaces"]:
        slash_tmp = (
            "import os\nprint(sum(e.is_file() for e in os.scandir('/tmp')))\n"
            "open('/tmp/x', 'w').write('y')\nprint(open('/tmp/x').read())"
        )
        assert grader.grade(prints(slash_tmp, ("", "0\ny"), ("", "0\ny"))).score == 1.0
        fills = "x = bytes(1 << 14)\nfor n in range(10_000):\n    open(f'/tmp/{n}', 'wb').write(x)"
        feedback = grader.grade(prints(fills, ("", ""))).feedback
        assert feedback is not None
        assert "No space left on device" in feedback


def test_integers_have_up_to_50_000_digits(grader: CodeGrader) -> None:
    digits = "1" + "0" * 49_999
    jobs = [
        calls("def f(n): return n + 1", ((10**49_999,), 10**49_999 + 1)),
        calls("def f(n): return n", ((10**49_999,), 10**49_999 + 1)),
        calls("def f(n): return str(n)", ((10**49_999,), digits)),
        calls("def f(n): return str(n)", ((10**50_000,), f"{digits}0")),
        prints("print(int(input()))", (digits, digits)),
        prints("print(int(input()))", (f"{digits}0", f"{digits}0")),
        asserts("def f(n): return n + 1, str(n)", f"assert f({digits}) == ({digits[:-1]}1, '{digits}')"),
    ]
    assert [(r.score, r.error) for r in grader.grade_batch(jobs)] == [
        (s, None) for s in (1, 0, 1, 0, 1, 0, 1)
    ]


def test_as_much_may_be_printed_as_is_expected(grader: CodeGrader) -> None:
    expected = "1\n" * 100_000  # 200 kB; the limit is 64
    rewards = grader.grade_batch(
        [
            prints("print('1\\n' * 100_000)", ("", expected)),
            prints("print('1 \\n' * 100_000)", ("", expected)),
            prints("print('1\\n' * 100_001)", ("", expected)),
            prints("print('1\\n' * 300_000)", ("", expected)),
            prints(
                "print('1' * 50_000, int(input()) - 1)",
                ("1" + "0" * 49_999, f"{'1' * 50_000} {'9' * 49_999}"),
            ),
            asserts("def f(): return 'x' * 200_000", f"assert f() == '{'x' * 200_000}'"),
        ]
    )
    assert [(r.score, r.error) for r in rewards] == [(s, None) for s in (1.0, 1.0, 0.0, 0.0, 1.0, 1.0)]
    assert rewards[3].feedback is not None
    assert "more than 390 kB of output" in rewards[3].feedback


def test_order_of_sets_is_the_same_in_every_run() -> None:
    program = "print(list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))"
    said = set()
    for _ in range(3):
        fresh = CodeGrader(**OPTIONS)
        said.add(fresh.grade(prints(program)).feedback)
        fresh.close()
    assert len(said) == 1


def test_a_program_that_is_late_ends_its_tests(grader: CodeGrader) -> None:
    quick = CodeGrader(**{**OPTIONS, "timeout_s": 1.0})
    program = "n = int(input())\nwhile n == 3: pass\nprint(n)"
    reward = quick.grade(prints(program, *((str(n), str(n)) for n in range(1, 11))))
    quick.close()
    assert reward.score == 0.2
    assert reward.feedback == "Test 3 of 10 failed: no answer within 1 s\nInput: 3"
    patient = CodeGrader(**{**OPTIONS, "timeout_s": 1.0, "max_timeouts": 2})
    assert patient.grade(prints(program, *((str(n), str(n)) for n in range(1, 11)))).score == 0.9
    patient.close()


WAITS = "import time\ndef f(n):\n    if n == 2: time.sleep(1000)\n    return n\n"
LOOPS = "def f(n):\n    while n == 2: pass\n    return n\n"


@pytest.mark.parametrize("program", [WAITS, LOOPS])
def test_a_program_that_sleeps_is_as_late_as_one_that_works(program: str) -> None:
    quick = CodeGrader(**{**OPTIONS, "timeout_s": 1.0, "cpu_s": 3600, "max_timeouts": 2})
    numbers = range(1, 4)
    rewards = quick.grade_batch(
        [
            prints(f"{program}print(f(int(input())))", *((str(n), str(n)) for n in numbers)),
            calls(program, *(((n,), n) for n in numbers)),
            asserts(program, *(f"assert f({n}) == {n}" for n in numbers)),
        ]
    )
    quick.close()
    late = "Test 2 of 3 failed: no answer within 1 s"
    assert [(r.score, (r.feedback or "")[: len(late)], r.error) for r in rewards] == [(2 / 3, late, None)] * 3


def test_the_time_of_all_programs_is_limited_where_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four programs that sleep would take two workers two hours: they are ended, and nobody is to blame."""
    sleeps = "import time\nprint(input())\ntime.sleep(3600)\n"
    options = {"workers": 2, "timeout_s": 3600.0, "total_s": 3600.0, "cpu_s": 3600, "reward": "all_pass"}
    monkeypatch.setattr(code, "others_wait", lambda: True)
    slow = CodeGrader(**{**OPTIONS, **options, "batch_s": 3.0})
    jobs = [prints(sleeps), calls("import time\ndef f(n): time.sleep(3600)\n", ((1,), 1)), prints(sleeps)]
    rewards = slow.grade_batch([*jobs, prints(None)])
    monkeypatch.undo()
    error = "the programs of the batch were not graded in time"
    assert [(r.score, r.error, r.infrastructure) for r in rewards[:3]] == [(0.0, error, True)] * 3
    assert (rewards[3].score, rewards[3].error) == (0.0, None)  # no program, so nothing to wait for
    assert slow.grade(prints("print(2 * int(input()))")).score == 1.0  # the next call begins anew
    slow.close()


def test_the_time_of_all_tests_is_limited_too() -> None:
    work = "import time\ndef f(n):\n    while time.process_time() < {}: pass\n    return n\n"
    quick = CodeGrader(**{**OPTIONS, "timeout_s": 0.5, "total_s": 1.0, "cpu_s": 3600})
    # Each test of a program that reads is a process; what is called or asserted about shares one.
    each, shared = work.format("0.3"), work.format("0.3 * n")
    rewards = quick.grade_batch(
        [
            prints(f"{each}print(f(int(input())))", *[("1", "1")] * 9),
            calls(shared, *(((n,), n) for n in range(9))),
            asserts(shared, *(f"assert f({n}) == {n}" for n in range(9))),
        ]
    )
    quick.close()
    # 0.3, 0.6, 0.9 and 1.2 s, and what starting costs.
    assert all(1 / 9 <= r.score <= 4 / 9 for r in rewards)


def test_what_the_machine_cannot_do_is_tried_twice_and_then_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grader = CodeGrader(**OPTIONS)
    tried: list[str] = []

    def fail(launcher: object, program: str, *_: object) -> Run:
        tried.append(program)
        if program == "x" or tried.count(program) == 2:
            return Run(1, grader._rules)
        raise SandboxError("no processor to be had")

    with monkeypatch.context() as patch:
        patch.setattr(code, "run_job", fail)
        assert grader.grade(prints("x")).error is None
        assert grader.grade(prints("y")).error is None
        tried.append("z")
        tried.append("z")
        reward = grader.grade(prints("z"))
    grader.close()
    assert tried == ["x", "y", "y", "z", "z", "z", "z"]
    assert (reward.score, reward.infrastructure, reward.error) == (0.0, True, "no processor to be had")
    assert reward.feedback is None


@pytest.mark.parametrize(
    ("program", "arguments", "expected", "score"),
    [
        ("def f(a, b): return a + b", (1, 2), 3, 1.0),
        ("def f(a, b): return a + b", ([1], [2]), [1, 2], 1.0),
        ("class Solution:\n    def f(self, a): return a", (None,), None, 1.0),
        ("def f(): return 1, (2, [3])", (), [1, [2, [3]]], 1.0),
        ("def f(): return 1.0", (), 1, 1.0),
        ("def f(): return True", (), 1, 1.0),
        ("def f(): return '1'", (), 1, 0.0),
        ("def f(): return 0.1 + 0.2", (), 0.3, 0.0),
        ("def f(): return {1: [2], 'a': (3,)}", (), {1: [2], "a": [3]}, 1.0),
        ("def f(): return {1: 2, 2: 3}", (), {1: 2}, 0.0),
        ("def f(): return {1, 2}", (), {2, 1}, 1.0),
        ("import collections\ndef f(): return collections.Counter('aab')", (), {"a": 2, "b": 1}, 1.0),
        ("import enum\nclass E(enum.IntEnum):\n    A = 3\ndef f(): return E.A", (), 3, 1.0),
        ("import numpy\ndef f(): return numpy.arange(3)", (), [0, 1, 2], 1.0),
        ("def f(): return 1 << 10_000", (), 1 << 10_000, 1.0),
        ("def f(): return '\\ud800\\0'", (), "\ud800\0", 1.0),
        ("def f(): return float('nan')", (), float("nan"), 0.0),
        ("def f(): return float('inf')", (), float("inf"), 1.0),
        ("def f(): return [1] * 10**6", (), [1], 0.0),  # more than output_kb
        ("def f(): return [1] * 10**6", (), [1] * 10**6, 1.0),  # as much as is expected
        ("def f(): return [1] * 3 * 10**6", (), [1] * 10**6, 0.0),
        ("def f():\n    x = []\n    x.append(x)\n    return x", (), [], 0.0),
        ("def f():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x", (), [], 0.0),
        ("def f(): return (x for x in [1])", (), [1], 0.0),
        ("def f(): return f", (), 3, 0.0),
        (LIAR + "def f(): return Liar(5)", (), 3, 0.0),
        (LIAR + "def f(): return [Liar(5)]", (), [3], 0.0),
        (LIAR + "def f(): return {Liar(5): Liar(5)}", (), {3: 3}, 0.0),
        (LIAR + "def f(): return Chameleon()", (), 3, 0.0),
        ("import decimal\ndef f(): return decimal.Decimal('sNaN')", (), 3, 0.0),
        ("def f(): raise SystemExit(0)", (), 3, 0.0),
        ("def f(): raise BaseException", (), 3, 0.0),
        ("class E(Exception):\n    def __str__(self): raise E\ndef f(): raise E", (), 3, 0.0),
        ("import os\ndef f(): os._exit(0)", (), 3, 0.0),
        ("import os\nos._exit(0)", (), 3, 0.0),
        ("def g(): return 3", (), 3, 0.0),
        ("f = 3", (), 3, 0.0),
    ],
)
def test_results_count_as_plain_values(
    grader: CodeGrader, program: str, arguments: tuple[Any, ...], expected: Any, score: float
) -> None:
    reward = grader.grade(calls(program, (arguments, expected)))
    assert (reward.score, reward.error) == (score, None)


# Finds the socket among its descriptors and writes frames of its own to it.
FORGER = (
    "import json, os, struct\n"
    "def forge(answer):\n"
    "    data = json.dumps(answer).encode()\n"
    "    for n in range(3, 64):\n"
    "        try:\n"
    "            os.write(n, struct.pack('!I', len(data)) + data)\n"
    "        except OSError:\n"
    "            pass\n"
)


@pytest.mark.parametrize(
    "forged",
    [
        [True, "", True],
        ["value", True],
        ["value", ["h", 0]],
        ["value", {"a": 1}],
        ["value", ["d", 1]],
        ["value", ["zz"]],
        ["raise", "AssertionError", ""],
        "passed",
    ],
)
def test_a_forged_message_is_an_answer_and_no_more(grader: CodeGrader, forged: Any) -> None:
    program = FORGER + f"def f(n):\n    forge({forged!r})\n    return 0\n"
    cases = [((1,), 3), ((2,), 4)]
    statements = ("assert f(1) == 3", "assert f(2) == 4")
    rewards = grader.grade_batch([calls(program, *cases), asserts(program, *statements)])
    assert [(r.score, r.error) for r in rewards] == [(0.0, None)] * 2
    # The right answer, written by hand, is worth what returning it is worth.
    program = FORGER + "import os\ndef f(n):\n    forge(['value', n + 2])\n    os._exit(0)\n"
    assert grader.grade(calls(program, *cases[:1])).score == 1.0


@pytest.mark.parametrize("huge", ["struct.pack('!I', 2**32 - 1)", "b'\\x00' * 100_000"])
def test_a_broken_channel_costs_the_program_its_test(grader: CodeGrader, huge: str) -> None:
    program = f"import os, struct\ndef f():\n    for n in range(3, 9):\n        try: os.write(n, {huge})\n"
    program += "        except OSError: pass\n    return 3\n"
    rewards = grader.grade_batch([calls(program, ((), 3)), asserts(program, "assert f() == 3")])
    assert [(r.score, r.error) for r in rewards] == [(0.0, None)] * 2


@pytest.mark.parametrize(
    ("program", "statement", "score"),
    [
        ("def f(n): return n + 1", "assert f(1) == 2", 1.0),
        ("def f(n): return n + 2", "assert f(1) == 2", 0.0),
        ("def f(n): return (n, [n])", "assert f(1) == (1, [1])", 1.0),
        ("def f(n): return [n, [n]]", "assert f(1) == (1, [1])", 0.0),  # the test code's own == decides
        ("def f(n): return n / 3", "assert abs(f(1) - 0.333333) < 1e-4", 1.0),
        ("def f(n): return n\ndef abs(n): return 0", "assert abs(f(1) - 0.333333) < 1e-4", 0.0),
        ("def f(n): return [3]\ndef sorted(x): return [1, 2]", "assert sorted(f(1)) == [1, 2]", 0.0),
        (
            "def f(n): return 5\nclass math:\n    isclose = lambda *a: True",
            "assert math.isclose(f(1), 1.0)",
            0.0,
        ),
        ("def sum(a, b): return a + b", "assert sum(1, 2) == 3", 1.0),
        (
            "def f(x, kind): return [v for v in x if not isinstance(v, kind)]",
            "assert f((1, 'a'), int) == ['a']",
            1.0,
        ),
        ("def f(n): yield from range(n)", "assert list(f(3)) == [0, 1, 2]", 1.0),
        (
            "def f(n): raise ValueError('no')",
            "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False",
            1.0,
        ),
        (LIAR + "def f(n): return Liar(5)", "assert f(1) == 3", 0.0),
        (LIAR + "def f(n): return Chameleon()", "assert f(1) == 3", 0.0),
        (LIAR + "def f(n): return Chameleon()", "assert 3 in [f(1)]", 0.0),
        ("class X:\n    def __eq__(self, o): return True\ndef f(n): return X()", "assert f(1) == 3", 0.0),
        (
            "class X:\n    def __eq__(self, o): return True\ndef f(n): return X()",
            "assert not (f(1) != 3)",
            0.0,
        ),
        (
            "class X(dict):\n    def __eq__(self, o): return True\ndef f(n): return X()",
            "assert f(1) == {1: 2}",
            0.0,
        ),
        ("import builtins\nbuiltins.AssertionError = None\ndef f(n): return 5", "assert f(1) == 3", 0.0),
        ("import sys\nsys.exit(0)", "assert f(1) == 3", 0.0),
        ("import os\ndef f(n): os._exit(0)", "assert f(1) == 3", 0.0),
        ("def f(n): exit()", "assert f(1) == 3", 0.0),
        ("def g(n): return 3", "assert f(1) == 3", 0.0),
        ("def f(n", "assert f(1) == 3", 0.0),
        ("f = 3", "assert f == 3", 1.0),
    ],
)
def test_test_code_sees_plain_values_only(
    grader: CodeGrader, program: str, statement: str, score: float
) -> None:
    reward = grader.grade(asserts(program, statement))
    assert (reward.score, reward.error) == (score, None)


def test_test_code_builds_objects_of_the_programs_classes(grader: CodeGrader) -> None:
    program = (
        "class Node:\n    def __init__(self, value): self.value, self.left = value, None\n"
        "def depth(node): return 0 if node is None else 1 + depth(node.left)\n"
    )
    setup = "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)\n"
    job = asserts(program, "assert depth(root) == 3", "assert root.left.value == 2", setup=setup)
    assert grader.grade(job).score == 1.0


def test_helpers_of_the_setup_are_not_the_programs(grader: CodeGrader) -> None:
    setup = "def encode(s): return s[::-1]\ndef decode(s): pass\n"
    check = "def check(f):\n    for s in ('ab', 'xyz'):\n        assert f(encode(s)) == s\ncheck(candidate)"
    honest = asserts("def decode(s): return s[::-1]", check, setup=setup, entry_point="decode")
    # Would pass if its own encode were used: it keeps what it is asked to decode.
    cheat = "def encode(s): return s\ndef decode(s): return s"
    rewards = grader.grade_batch([honest, asserts(cheat, check, setup=setup, entry_point="decode")])
    assert [r.score for r in rewards] == [1.0, 0.0]


def test_a_statement_that_ends_the_program_costs_itself(grader: CodeGrader) -> None:
    program = "import os\ndef f(n):\n    if n == 2: os._exit(0)\n    return n\n"
    statements = tuple(f"assert f({n}) == {n}" for n in range(4))
    rewards = grader.grade_batch(
        [asserts(program, *statements), calls(program, *(((n,), n) for n in range(4)))]
    )
    assert [(r.score, r.error) for r in rewards] == [(0.75, None)] * 2


def test_many_programs_leave_nothing_behind() -> None:
    grader = CodeGrader(**{**OPTIONS, "memory_mb": 515})
    kinds = [
        prints("print(2 * int(input()))"),
        calls("def f(n): return n", ((1,), 1)),
        asserts("def f(n): return n", "assert f(1) == 1"),
        prints("import os\nos._exit(3)"),
        calls("import os\ndef f(n): os._exit(0)", ((1,), 1)),
    ]
    grader.grade_batch(kinds)
    wait_until(lambda: left_running(515) == 1)  # the launcher
    before = resources()
    rewards = grader.grade_batch(kinds * 12)
    assert [r.score for r in rewards] == [1.0, 1.0, 1.0, 0.0, 0.0] * 12
    # A busy machine takes a moment to clear away the last processes. Fewer than before is as good: what other
    # tests held may be let go meanwhile.
    wait_until(lambda: all(now <= then for now, then in zip(resources(), before, strict=True)))
    assert grader._launcher is not None
    launcher = grader._launcher._process.pid
    grader.close()
    wait_until(lambda: left_running(515) == 0)
    assert not list(Path("/tmp").glob(f"pipo-sandbox-{launcher}-*"))


def resources() -> tuple[int, int, int]:
    """Open descriptors and threads of this process, and processes of the sandbox."""
    return len(os.listdir("/proc/self/fd")), threading.active_count(), left_running(515)


def left_running(memory_mb: int) -> int:
    """Processes that were forked from a launcher with this limit, the launcher included."""
    found = 0
    for folder in Path("/proc").iterdir():
        try:
            found += folder.name.isdigit() and f'"memory_mb": {memory_mb}' in (folder / "cmdline").read_text()
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_trainer_is_the_end_of_its_programs(how: signal.Signals) -> None:
    script = (
        "from tests.unit.test_code_grader import *\n"
        # A shell's background jobs, and so the tests started as one, ignore it from birth.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "grader = CodeGrader(**{**OPTIONS, 'memory_mb': 519, 'timeout_s': 50.0, 'cpu_s': 50})\n"
        "print(grader.grade(prints('print(14)')).score, flush=True)\n"
        "grader.grade_batch([prints('while True: pass')] * 4)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1.0\n"
        wait_until(lambda: left_running(519) >= 5)  # the launcher and the programs
        process.send_signal(how)
        process.wait()
    wait_until(lambda: left_running(519) == 0)


def wait_until(condition: Any) -> None:
    while not condition():  # a test that hangs is ended
        time.sleep(0.05)


def test_a_launcher_that_dies_costs_one_batch_at_most(grader: CodeGrader) -> None:
    assert grader.grade(prints("print(14)")).score == 1.0
    launcher = grader._launcher
    assert launcher is not None
    launcher.kill()
    assert grader.grade(prints("print(14)")).score == 1.0


def test_a_copy_starts_its_own_processes(grader: CodeGrader) -> None:
    copy = pickle.loads(pickle.dumps(grader))
    assert copy.grade(prints("print(14)")).score == 1.0
    assert copy._launcher is not grader._launcher
    copy.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("reward", "half"), ("workers", 0), ("timeout_s", 0), ("total_s", 1), ("cpu_s", 0), ("memory_mb", 1),
     ("wall_factor", 1), ("output_kb", 0), ("max_timeouts", 0), ("float_tolerance", -1.0),
     ("timeout_s", float("nan"))],
)  # fmt: skip
def test_an_option_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(TaskError, match=f"grader {name} must"):
        CodeGrader(**{**OPTIONS, name: value})
