"""TACO, HumanEval and MBPP: what rows become, what is asked, what is run; on rows written for this test."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from pipo.errors import TaskError
from pipo.graders.code_tests import AssertTests, CallTests, StdinTests
from pipo.records.problems import Reward
from pipo.tasks.code import CONTEST_PRELUDE, CodeExample, with_prelude
from pipo.tasks.taco import TACO_PRELUDE
from tests.code_rows import DATA, ScriptedGrader, make_task
from tests.verdicts import verdict


@pytest.fixture(autouse=True)
def own_recursion_limit() -> Iterator[None]:
    """A contest's prelude raises it, and some tests run one in this process."""
    before = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(before)


def example(kind: str, number: int, split: str = "test") -> CodeExample:
    return make_task(kind, DATA / f"{kind}_small.jsonl").examples(split)[number]  # pyright: ignore[reportArgumentType]


def taco_calls(function: str, arguments: tuple[tuple[Any, ...], ...], expected: tuple[Any, ...]) -> CallTests:
    return CallTests(function=function, arguments=arguments, expected=expected, maybe_wrapped=True)


def test_taco_rows_become_problems() -> None:
    task = make_task("taco", DATA / "taco_small.jsonl")
    examples = task.examples("test")
    assert [e.uid for e in examples] == [f"taco/test/{i}" for i in (*range(6), 16)]
    assert [e.level for e in examples] == ["EASY", "MEDIUM", "", "UNKNOWN_DIFFICULTY", *["EASY"] * 3]
    assert [e.answer for e in examples] == ["print(2*int(input()))", "print(0)", "", *["print(0)"] * 4]
    assert [e.tests for e in examples] == [
        StdinTests(inputs=("2\n", "-7\n"), outputs=("4\n", "-14\n")),
        StdinTests(inputs=("1 2\n3 4", "5"), outputs=("3\n7", "5")),
        StdinTests(inputs=("3", "1.5"), outputs=("1", "0.5")),
        taco_calls("add", ((1, 2), (3, 4)), ([3], [7])),
        taco_calls("digits", ((12,), (7,)), ([1, 2], [7])),
        taco_calls("lengths", (({1: "a", 2: "b"},), ({},)), ({1: 2}, {})),
        StdinTests(inputs=("1",), outputs=("9" * 5000,)),
    ]


def test_taco_rows_that_cannot_be_used_are_named() -> None:
    dropped = make_task("taco", DATA / "taco_small.jsonl").dropped("test")
    assert [d.place.rpartition(" ")[2] for d in dropped] == [str(i) for i in range(7, 21) if i != 17]
    for row, beginning in zip(
        dropped,
        [
            "its tests are free text: a function is asked for (starter_code), but",
            "field 'question' must be a text that is not blank, got None",
            "field 'input_output' must be a text that is not blank, got None",
            "field 'input_output' is not JSON (Expecting value",
            "field 'input_output' has 2 inputs and 1 outputs",
            "field 'input_output' has 0 inputs and 0 outputs",
            "field 'input_output' must hold the lists 'inputs' and 'outputs'",
            "each of 'outputs' must be text or lines of text, got {'a': 1}",
            "each of 'outputs' must be text or lines of text, got ['1']",
            "with fn_name, each of 'inputs' must be a list of arguments, got '1'",
            "field 'solutions' must be a list of programs",
            "field 'starter_code' must be a text or null, got 3",
            "no field 'question'; there are ['problem', 'tests']",
        ],
        strict=True,
    ):
        assert row.reason.startswith(beginning)


def test_integers_of_tests_have_up_to_50_000_digits(tmp_path: Path) -> None:
    digits = "7" * 50_000
    tests = [f'{{"fn_name": "f", "inputs": [[{digits}]], "outputs": [-{digits}]}}']
    tests += [
        f'{{"inputs": [{digits}], "outputs": [[{digits}]]}}',
        f'{{"inputs": [1], "outputs": [{digits}1]}}',
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "\n".join(json.dumps({"question": "q", "input_output": t, "starter_code": ""}) for t in tests)
    )
    task = make_task("taco", file)
    number = int(Decimal(digits))
    assert [e.tests for e in task.examples("test")] == [
        taco_calls("f", ((number,),), (-number,)),
        StdinTests(inputs=(digits,), outputs=(digits,)),
    ]
    assert [d.reason for d in task.dropped("test")] == [
        "field 'input_output' is not JSON (an integer of 50001 digits; up to 50000 are read)"
    ]
    case = {"input": digits, "output": digits, "testtype": "functional"}
    row = json.loads((DATA / "livecodebench_small.jsonl").read_text().splitlines()[2])
    row |= dict.fromkeys(("public_test_cases", "private_test_cases"), json.dumps([case]))
    file.write_text(json.dumps(row))
    (example,) = make_task("livecodebench", file).examples("test")
    assert isinstance(example.tests, CallTests)
    assert example.tests.arguments == ((number,),) * 2


def test_only_taco_tolerates_rounding(compose_config: Callable[..., DictConfig]) -> None:
    names = ("code", "taco", "livecodebench", "humaneval", "mbpp")
    graders = {name: compose_config(f"task={name}").task.source.grader for name in names}
    assert {name: grader.float_tolerance for name, grader in graders.items()} == {
        **dict.fromkeys(names, 0.0),
        **dict.fromkeys(("code", "taco"), 1e-6),
    }


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"problem": "p"}\n{"problem": "q"}\n')
    for kind, field in [("taco", "question"), ("mbpp", "task_id"), ("humaneval", "prompt")]:
        with pytest.raises(TaskError, match=rf"none of the 2 rows can be used; .*line 1: no field '{field}'"):
            make_task(kind, file).examples("test")


def test_humaneval_rows() -> None:
    task = make_task("humaneval", DATA / "humaneval_small.jsonl")
    first, second = task.examples("test")
    assert [first.uid, second.uid] == ["humaneval/0", "humaneval/1"]
    assert first.answer == first.question + "    return items[-1]\n"
    tests = second.tests
    assert isinstance(tests, AssertTests)
    # The check of the second problem calls a helper of its prompt.
    assert tests.setup.startswith("from typing import List\n\n\ndef twice(x: int)")
    assert "def halves" not in tests.setup
    assert (tests.statements, tests.entry_point) == (("check(candidate)",), "halves")
    namespace: dict[str, object] = {"candidate": lambda numbers: [n // 2 for n in numbers]}
    exec(tests.setup + "\n" + tests.statements[0], namespace)
    assert [d.reason.partition(";")[0] for d in task.dropped("test")] == [
        "field 'test' defines no function check",
        "field 'prompt' does not begin the function g",
        "no field 'canonical_solution'",
    ]
    with pytest.raises(TaskError, match="humaneval has no train split"):
        task.examples("train")


def test_mbpp_rows_belong_to_a_split_by_their_number() -> None:
    task = make_task("mbpp", DATA / "mbpp_small.jsonl")
    assert [e.uid for e in task.examples("test")] == ["mbpp/11", "mbpp/12"]
    assert [e.uid for e in task.examples("train")] == ["mbpp/601"]
    full, sanitized = task.examples("test")
    assert full.tests == AssertTests(
        setup="",
        statements=("assert inc(1) == 2", "assert inc(-1) == 0", "assert inc(0) == 1"),
        entry_point=None,
    )
    assert sanitized.question == "Write a function to take the root."
    assert isinstance(sanitized.tests, AssertTests)
    assert sanitized.tests.setup == "import math"
    (tree,) = task.examples("train")
    assert isinstance(tree.tests, AssertTests)
    assert tree.tests.setup == "root = Node(1)\r\nroot.left = Node(2)"
    assert [d.reason.partition(";")[0] for d in task.dropped("test")] == [
        "task_id 601 is not in test (11 to 510)",
        "task_id 5 is not in test (11 to 510)",
        "task_id 511 is not in test (11 to 510)",
        "field 'test_list' has no tests",
        "field 'test_list' must be a list of texts, got 'assert f() == 1'",
        "field 'task_id' must be a whole number, got '15'",
        "no field 'task_id'",
    ]


def test_contest_prompts() -> None:
    task = make_task("taco", DATA / "taco_small.jsonl")
    stdin, call = (task.render(task.examples("test")[i]) for i in (0, 3))
    assert stdin.messages[0].content == (
        "Read a number and print its double.\n\n"
        "Solve the problem with a Python program that reads standard input and writes the answer to standard "
        "output.\nThink step by step, then give the whole program in one block that begins with ```python "
        "and ends with ```."
    )
    assert stdin.text == (
        "Read a number and print its double.\n\nA correct solution in Python, which reads standard input and "
        "writes the answer to standard output:\n\n```python"
    )
    assert call.messages[0].content == (
        "Write a function that adds two numbers.\n\nBegin with this code and keep its names:\n\n"
        "```python\ndef add(a, b):\n\t\n```\n\nSolve the problem in Python. add is called with arguments "
        "and what it returns is checked; read no input and print nothing.\nThink step by step, then give the "
        "whole program in one block that begins with ```python and ends with ```."
    )
    assert call.text.endswith(
        "def add(a, b):\n\t\n\nA correct solution in Python, which defines add:\n\n```python"
    )


def test_function_prompts() -> None:
    task = make_task("humaneval", DATA / "humaneval_small.jsonl")
    shown = task.examples("test")[0]
    # A base model continues the code; without the last line end, which belongs to the first token of a body.
    assert task.render(shown).text == shown.question.strip()
    assert f"```python\n{shown.question}" in task.render(shown).messages[0].content
    assert "function last:" in task.render(shown).messages[0].content
    task = make_task("mbpp", DATA / "mbpp_small.jsonl")
    prompt = task.render(task.examples("test")[0])
    asserts = "assert inc(1) == 2\nassert inc(-1) == 0\nassert inc(0) == 1\n"
    assert prompt.messages[0].content == (
        f"Write a function to add one.\n\nThe function must pass these tests:\n\n```python\n{asserts}```\n\n"
        "Write it in Python, in one block that begins with ```python and ends with ```."
    )
    assert prompt.text == (
        f"Write a function to add one.\n\nIt passes these tests:\n\n{asserts}\n"
        "A correct solution in Python:\n\n```python"
    )


def test_programs_are_found_run_and_reported() -> None:
    grader = ScriptedGrader(lambda job: Reward(score=0.25, feedback=f"ran {len(job.program or '')}"))
    task = make_task("taco", DATA / "taco_small.jsonl", grader)
    shown = task.examples("test")[0]
    rewards = task.grade([shown] * 3, ["```python\nprint(1)\n```", "No.", "```\nprint(22)\n```"])
    # Only responses with a program reach the grader, and what is reported is the program without the imports.
    assert [job.tests for job in grader.jobs] == [shown.tests] * 2
    assert [job.program for job in grader.jobs] == [f"{TACO_PRELUDE}\nprint({n})" for n in (1, 22)]
    assert [r.score for r in rewards] == [0.25, 0.0, 0.25]
    assert [r.answer for r in rewards] == ["print(1)", None, "print(22)"]
    assert rewards[1].feedback is not None
    assert rewards[1].feedback.startswith("The response holds no program.")
    assert verdict(task, shown, "```python\nprint(1)\n```") == rewards[0]
    task.close()
    assert grader.closed


def test_prelude_gives_names_and_stays_out_of_the_way() -> None:
    program = "def f(a: List[int], b: Optional[Deque]):\n    return sqrt(len(deque(a))), pow(3, 4, 5), inf\n"
    namespace: dict[str, object] = {}
    exec(with_prelude(program), namespace)
    assert namespace["f"]([1] * 4, None) == (2.0, 1, float("inf"))  # pyright: ignore[reportCallIssue]
    assert with_prelude("x = 1").count("\n") == 1
    future = "# two\nfrom __future__ import annotations\nfrom __future__ import division\nx: Foo = gcd(4, 6)"
    exec(with_prelude(future), namespace)
    assert namespace["x"] == 2


# What stands in the harness of LiveCodeBench and in that of the method's authors: all of these by star, then
# the modules by name, which hides functions of the same name (copy.copy, random.random, bisect.bisect).
STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)


@pytest.mark.parametrize("prelude", [CONTEST_PRELUDE, TACO_PRELUDE])
def test_a_contest_program_has_every_name_of_the_harness(prelude: str) -> None:
    given: dict[str, object] = {}
    exec(prelude, given)
    expected: dict[str, object] = {}
    for name in STARRED:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", [key for key in vars(module) if not key.startswith("_")])
        expected |= {key: getattr(module, key) for key in public}
    expected |= {
        name: importlib.import_module(name) for name in STARRED if name not in ("builtins", "typing")
    }
    if prelude == TACO_PRELUDE:  # the two that TACO's own harness imports besides
        expected |= {name: importlib.import_module(name) for name in ("time", "fractions")}
    assert {name for name, value in expected.items() if given.get(name) is not value} == set()
    # By hand, one or more of each module.
    names = (
        "ascii_lowercase findall sub timedelta Counter deque defaultdict OrderedDict heappush bisect_left "
        "insort deepcopy gcd comb inf isqrt randint mean median accumulate product permutations combinations "
        "lru_cache cache reduce cmp_to_key xor itemgetter mul StringIO maxsize stdin stdout dumps loads pow "
        "List Dict Optional Tuple Set"
    )
    assert [name for name in names.split() if name not in given] == []


def test_numpy_comes_with_taco_programs_that_use_it() -> None:
    task = make_task("taco", DATA / "taco_small.jsonl")
    assert task.runnable("print(np.zeros(2))").startswith("import numpy as np; ")
    assert "numpy" not in task.runnable("print(1)")
    lcb = make_task("livecodebench", DATA / "livecodebench_small.jsonl")
    assert "numpy" not in lcb.runnable("print(np.zeros(2))")


# What stands in each block; `wrong` and `right` define f, the function that is asked for.
WRONG, RIGHT, USE = "def f(x):\n    return 0", "def f(x):\n    return x + 1", "print(f(3))"


def block(body: str, label: str = "python") -> str:
    return f"```{label}\n{body}\n```"


@pytest.mark.parametrize(
    ("blocks", "contest", "livecodebench", "by_name"),
    [
        ([block(RIGHT)], RIGHT, RIGHT, RIGHT),
        ([block(WRONG), block(RIGHT)], RIGHT, RIGHT, RIGHT),
        ([block(WRONG, ""), block(RIGHT, "")], RIGHT, RIGHT, RIGHT),
        ([block(WRONG), block(RIGHT, "py")], RIGHT, RIGHT, RIGHT),
        # A use of it, which the harnesses of contests run in the place of the program.
        ([block(RIGHT), block(USE)], USE, USE, RIGHT),
        # LiveCodeBench takes the last block, whatever it holds and however it is labelled.
        ([block(RIGHT), block("4", "text")], RIGHT, "4", RIGHT),
        ([block(RIGHT), block("python f.py", "bash")], RIGHT, "python f.py", RIGHT),
        ([block(RIGHT), block("4", "")], RIGHT, "4", RIGHT),
        ([block(WRONG), block(RIGHT, "")], WRONG, RIGHT, RIGHT),
        ([block(WRONG), block("int f(int x);", "cpp")], WRONG, "int f(int x);", WRONG),
        # Cut in its last block.
        ([block(WRONG), f"```python\n{RIGHT}"], RIGHT, "and", RIGHT),
        ([f"```python\n{RIGHT}"], RIGHT, None, RIGHT),
        ([f"```python\n{RIGHT}```"], RIGHT, RIGHT, RIGHT),
        (["No program."], None, None, None),
        ([f"<think>\n{block(WRONG)}\n</think>", block(RIGHT)], RIGHT, RIGHT, RIGHT),
        ([block(RIGHT), f"<think>\n{block(WRONG)}"], RIGHT, RIGHT, RIGHT),
    ],
)
def test_each_data_set_takes_the_block_that_its_harness_takes(
    blocks: list[str], contest: str | None, livecodebench: str | None, by_name: str | None
) -> None:
    response = "So:\n" + "\nand\n".join(blocks)
    taco = make_task("taco", DATA / "taco_small.jsonl")
    assert taco.program(taco.examples("test")[0], response) == contest
    lcb = make_task("livecodebench", DATA / "livecodebench_small.jsonl")
    assert lcb.program(lcb.examples("test")[0], response) == livecodebench
    mbpp = make_task("mbpp", DATA / "mbpp_small.jsonl")
    problem = mbpp.examples("test")[0]
    tests = AssertTests(setup="", statements=("assert f(3) == 4",), entry_point=None)
    assert mbpp.program(replace(problem, tests=tests), response) == by_name
    humaneval = make_task("humaneval", DATA / "humaneval_small.jsonl")
    problem = humaneval.examples("test")[0]
    tests = AssertTests(setup="", statements=("check(candidate)",), entry_point="f")
    problem = replace(problem, question="def f(x):\n", tests=tests)
    assert humaneval.program(problem, response) == by_name


def test_mbpp_reads_the_marks_of_its_authors() -> None:
    task = make_task("mbpp", DATA / "mbpp_small.jsonl")
    problem = task.examples("test")[0]
    program = "def inc(x):\n    return x + 1"
    for response in (
        f"[BEGIN]\n{program}\n[DONE]",
        f"{program}\n[DONE]\n\nYou are an expert.\n[BEGIN]\nx = 1\n[DONE]",
        f"So:\n[BEGIN]\n{block(program)}\n[DONE]\n",
    ):
        assert task.program(problem, response) == program


def test_humaneval_completes_the_prompt() -> None:
    grader = ScriptedGrader()
    task = make_task("humaneval", DATA / "humaneval_small.jsonl", grader)
    first, second = task.examples("test")
    task.grade([first, second], ["    return items[-1]", "```python\ndef halves(n):\n    return n\n```"])
    assert grader.jobs[0].program == first.question + "    return items[-1]"
    helper = second.question.partition("def halves")[0]
    assert grader.jobs[1].program == helper + "def halves(n):\n    return n"


def test_modules_are_light_to_import() -> None:
    script = (
        "import sys, pipo.tasks.taco, pipo.tasks.livecodebench, pipo.tasks.humaneval, pipo.tasks.mbpp, "
        "pipo.tasks.science; print([m for m in ('torch', 'datasets', 'sympy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
