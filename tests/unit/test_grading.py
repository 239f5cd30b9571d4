"""``python eval.py grade``: every row comes out once, in order, with the verdict of the task's own grader."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from pipo.config.command_line import expand_paths
from pipo.errors import ConfigError, RunFailed, RunStopped
from pipo.evaluation.results import ProblemResult, Sample
from pipo.evaluation.samples_file import append_samples
from pipo.graders.worker_pool import WorkerStartError
from pipo.grading import GRADED_FILE, grade
from pipo.records.problems import Example, Reward
from pipo.tasks.arithmetic import ArithmeticTask, demonstrate
from tests.conftest import ROOT

DATA = ROOT / "tests/data"
ADDED = {"score", "solved", "error", "feedback"}
Rows = list[dict[str, Any]]
Make = Callable[..., DictConfig]


def written(path: Path, rows: Rows) -> Path:
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return path


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def graded(compose_config: Make, samples: Path, *overrides: str) -> Rows:
    folder = samples.with_suffix(".graded")
    grade(compose_config(*overrides, f"samples={samples}", f"output_dir={folder}", name="grade"))
    return read(folder / GRADED_FILE)


def boxed(answer: Any) -> str:
    return f"So it is $\\boxed{{{answer}}}$."


def python(program: str) -> str:
    return f"Like this:\n```python\n{program}\n```"


def first(file: str) -> dict[str, Any]:
    return json.loads((DATA / file).read_bytes().split(b"\n")[0])


MATH = {"problem": "How much is a half of one?", "answer": "\\frac{1}{2}"}
ASKED = {"question": MATH["problem"], "answer": MATH["answer"]}
CHOICE = first("science_small.jsonl")
TACO = first("taco_small.jsonl")
LAMP = '<think> Dark. </think>\n<tool_call>\n{"name": "lamp", "parameters": {}}\n</tool_call>'
SEARCH = '{"name": "ToolSearcher", "parameters": {"keywords": "lamp"}}'
LAMP_PLAN = {
    "requirement": "Make it light.",
    "apis": [
        {"api_name": "ToolSearcher", "input": {}, "output": {"output": {"name": "lamp"}}},
        {"api_name": "lamp", "input": {}, "output": {"output": "success", "exception": None}},
    ],
}
# Task, what is set besides, row, right response, wrong response: the data sets' own fields.
TASKS: list[tuple[str, tuple[str, ...], dict[str, Any], str, str]] = [
    ("math", (), MATH, boxed("0.5"), boxed(2)),
    ("math", (), {"problem": "", "answer": 7, "level": None}, boxed(7), boxed(8)),
    ("math", (), first("math_small.jsonl"), boxed("\\frac34"), boxed(4)),
    ("math_python", (), MATH, boxed("0.5"), python("0.5")),
    ("math500", (), MATH | {"subject": "Algebra", "level": 2}, boxed("0.5"), boxed(2)),
    ("aime25", (), {"problem": "How many?", "answer": 70, "id": "0"}, boxed(70), boxed(71)),
    ("amc23", (), ASKED, boxed("0.5"), boxed(2)),
    ("amc23", (), MATH | {"answer": 27.0}, boxed(27), boxed(2)),
    ("minervamath", (), ASKED, boxed("0.5"), boxed(2)),
    ("olympiadbench", (), {"question": "Which?", "final_answer": ["1", "2"], "error": None},
     boxed("2, 1"), boxed(1)),
    ("gsm8k", (), first("gsm8k_small.jsonl"), boxed(33), "33"),
    ("boxed_sums", (), {"question": "4 + 5"}, boxed(9), boxed(8)),
    ("arithmetic", (), {"question": "37*85", "answer": "3145"}, demonstrate("37*85"), "#3146"),
    ("calculator", (), {"question": "1234+347*856="}, "[347*856]\n297032\n#298266", "#298267"),
    ("taco", (), TACO, python("print(2*int(input()))"), python("print(4)")),
    ("code", (), TACO, python("print(2*int(input()))"), "no program"),
    ("taco", (), TACO | {"input_output": json.loads(TACO["input_output"])},
     python("print(2*int(input()))"), python("print(4)")),
    ("livecodebench", (), first("livecodebench_small.jsonl"),
     python("print(int(input())+1)"), python("print(0)")),
    ("humaneval", (), first("humaneval_small.jsonl"),
     python("def last(x):\n    return x[-1]"), "    return 1"),
    ("mbpp", (), first("mbpp_small.jsonl"), python("def inc(x):\n    return x + 1"), python("def inc(x): 1")),
    ("mbpp", (), first("mbpp_small.jsonl") | {"task_id": 3}, python("def inc(x):\n    return x + 1"), ""),
    ("tool_use", ("task.source.reward=calls",), first("rlla_small.jsonl"),
     first("rlla_small.jsonl")["reward_model"]["ground_truth"], "Water."),
    ("api_bank", (), first("api_bank_small.jsonl"), LAMP, LAMP.replace("lamp", "lump")),
    ("api_bank_chain", (), LAMP_PLAN, LAMP.replace("\n{", f"\n{SEARCH}\n{{"), LAMP),
    ("bfcl", (), first("bfcl_small.json") | {"ground_truth": [{"garden.water": {"plant": ["fern"]}}]},
     '[garden.water(plant="fern")]', '[garden.water(plant="ivy")]'),
    ("bfcl", ("task.category=irrelevance",), first("bfcl_small.json") | {"id": "irrelevance_7"},
     "None of these helps.", '[garden.water(plant="fern")]'),
    ("prompts", (f"reward={ROOT / 'tests/data/own_rewards.py'}:exact",), {"prompt": "1+1=", "answer": "2"},
     "2", "3"),
    *(("science", (f"task.domain={domain.lower()}",), CHOICE | {"domain": domain},
       "<answer>B</answer>", "<answer>A</answer>")
      for domain in ("Biology", "Chemistry", "Material", "Physics")),
]  # fmt: skip


@pytest.mark.parametrize(("task", "options", "row", "right", "wrong"), TASKS)
def test_rows_in_the_fields_of_each_task(
    compose_config: Make,
    tmp_path: Path,
    task: str,
    options: tuple[str, ...],
    row: dict[str, Any],
    right: str,
    wrong: str,
) -> None:
    rows = [row | {"response": right}, row | {"response": wrong}, {"response": right}]
    found = graded(compose_config, written(tmp_path / "rows.jsonl", rows), f"task={task}", *options)
    assert [each["score"] for each in found[:2]] == [1.0, 0.0], found
    assert [(each["solved"], each["error"]) for each in found[:2]] == [(True, None), (False, None)]
    for before, after in zip(rows, found, strict=True):
        assert after.keys() == before.keys() | ADDED
        assert all(after[key] == value for key, value in before.items() if key not in ADDED)
    assert (found[2]["score"], found[2]["solved"]) == (None, False)
    assert found[2]["error"].startswith("line 3: ")


def test_every_task_is_among_them() -> None:
    elsewhere = {"bfcl_multi_turn"}  # conversations on a package's simulators: test_bfcl_multi_turn.py
    tasks = {path.stem for path in (ROOT / "conf/task").glob("*.yaml")}
    assert {task for task, *_ in TASKS} | elsewhere == tasks


def test_partial_scores_and_feedback_are_the_graders(compose_config: Make, tmp_path: Path) -> None:
    rows = [TACO | {"response": python("print(4)")}]  # right for the first of two tests
    (row,) = graded(compose_config, written(tmp_path / "rows.jsonl", rows), "task=code")
    assert (row["score"], row["solved"]) == (0.5, False)
    assert row["feedback"].startswith("Test 2 of 2 failed")


def test_a_bfcl_row_of_another_kind_of_category_names_it(compose_config: Make, tmp_path: Path) -> None:
    rows = [first("bfcl_small.json") | {"id": "simple_java_4", "response": ""}]
    path = written(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ConfigError, match="simple_java, not simple_python"):
        graded(compose_config, path, "task=bfcl")
    (row,) = read(path.with_suffix(".graded") / GRADED_FILE)
    assert "simple_java, not simple_python; grade it with task.category=simple_java" in row["error"]


ODD = [
    (b'{"problem": "q", "answer": "4", "response": "\\ud83d \\\\boxed{4}"}', 1.0, None),
    (b'{"problem": "q", "answer": "\\ud83d", "response": "\\\\boxed{4}"}', 0.0, None),
    (b'{"problem": "q", "answer": "4", "response": "\\\\boxed{4}", "n": ' + 5000 * b"7" + b"}", 1.0, None),
    (b'{"problem": "q", "answer": ' + 4500 * b"7" + b', "response": "4"}', None, "has 4500 characters"),
    (b'\xef\xbb\xbf{"problem": "q", "answer": "4", "response": ""}\r', 0.0, None),
    (b'{"problem": "q", "answer": NaN, "response": "\\\\boxed{nan}"}', None, "field 'answer' is nan"),
    (b'{"problem": "q", "answer": "4"}', None, "no field 'response'"),
    (b'{"problem": "q", "answer": "4", "response": ["4"]}', None, "field 'response' must be a text"),
    (b'{"problem": "q", "answer": "4", "resp', None, "malformed JSON"),
    (b'["q", "4"]', None, "must be a JSON object"),
    (b'"\xff"', None, "not UTF-8 text"),
    (100_000 * b"[", None, "nested too deeply"),
    (b'{"problem": "q", "answer": "4", "response": "\xe2\x80\xa8 \\\\boxed{4}"}', 1.0, None),
]


def test_odd_rows_keep_their_place_and_what_they_hold(
    compose_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n\n".join(line for line, _, _ in ODD))
    lines = path.with_suffix(".graded") / GRADED_FILE
    grade(compose_config("task=math", f"samples={path}", f"output_dir={lines.parent}", name="grade"))
    out = lines.read_bytes().rstrip(b"\n").split(b"\n")
    assert 5000 * b"7" in out[2]
    assert b"NaN" in out[5]
    sys.set_int_max_str_digits(0)
    found = [json.loads(line) for line in out]
    sys.set_int_max_str_digits(4300)
    assert [row["score"] for row in found] == [score for _, score, _ in ODD]
    for number, (row, (line, _, error)) in enumerate(zip(found, ODD, strict=True)):
        assert (row["error"] is None) == (error is None), row["error"]
        assert error is None or (f"line {2 * number + 1}: " in row["error"] and error in row["error"])
        if "line" in row:
            assert row["line"] == line.decode(errors="replace")
    assert found[0]["response"] == "\ud83d \\boxed{4}"
    said = capsys.readouterr().out.splitlines()
    # Three of the five responses are right.
    assert said[:7] == [
        "rows: 13",
        "responses: 5",
        "solved: 3 (60.0 %)",
        "mean score: 0.6000",
        "errors: 0",
        "infrastructure errors: 0",
        "rows that could not be graded: 8",
    ]
    assert "line 11: field 'answer' is nan" in said[7]
    assert said[7].endswith("5 more in the file")


def test_a_file_of_which_no_row_can_be_graded_ends_with_an_error_beside_the_rows(
    compose_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "rows.jsonl", [MATH | {"answer text": "4"}, {"response": "4"}])
    with pytest.raises(ConfigError, match="no row could be graded; line 1: no field"):
        graded(compose_config, path, "task=math")
    found = read(path.with_suffix(".graded") / GRADED_FILE)
    assert [(row["score"], row["solved"]) for row in found] == [(None, False), (None, False)]
    assert "rows that could not be graded: 2" in capsys.readouterr().out


def evaluated(path: Path, part: str, examples: list[Example], *responses: str) -> None:
    """Appends what an evaluation would leave behind, with verdicts of an older grader: nothing was right."""
    append_samples(
        path,
        part,
        [
            ProblemResult(
                index=i,
                uid=example.uid,
                level="1",
                prompt=f"{example.question}=",
                answer=example.answer,
                majority=0.0,
                samples=tuple(
                    Sample(
                        response=response.replace("RIGHT", example.answer),
                        score=0.0,
                        answer=None,
                        error="too slow",
                        finished=True,
                        length=3,
                    )
                    for response in responses
                ),
            )
            for i, example in enumerate(examples)
        ],
    )


def arithmetic(levels: dict[int, float]) -> list[Example]:
    task = ArithmeticTask(seed=0, train_problems=2, test_problems=256, levels=levels)
    return list(task.examples("test"))


def test_an_evaluation_is_graded_again(
    compose_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, examples = tmp_path / "samples.jsonl", arithmetic({1: 1})[:3]
    evaluated(path, "arithmetic", examples, "#RIGHT", "#RIGHT", "#no")
    rows = read(path)
    rows[1] |= {"uid": "arithmetic/test/9999"}
    rows[2] |= {"prompt": "1+1=", "answer": "2"}
    options = ("task.source.test_problems=256", "task.source.levels={1: 1, 2: 0, 3: 0, 4: 0, 5: 0}")
    found = graded(compose_config, written(path, rows), "task=arithmetic", *options)
    # Three responses are graded, of which all were wrong before; two rows are of other problems.
    assert "scores that changed: 2 of 3" in capsys.readouterr().out.splitlines()
    assert [sample["score"] for sample in found[0]["samples"]] == [1.0, 1.0, 0.0]
    assert [sample["solved"] for sample in found[0]["samples"]] == [True, True, False]
    assert found[0]["samples"][0]["answer"] == examples[0].answer
    assert found[0]["samples"][2]["feedback"] == demonstrate(examples[0].question)
    assert {sample["error"] for sample in found[0]["samples"]} == {None}
    assert found[0]["score"] == pytest.approx(2 / 3)
    assert (found[0]["solved"], found[0]["majority"], found[0]["error"]) == (False, 1.0, None)
    assert [row["score"] for row in found[1:]] == [None, None]
    assert "has no problem 'arithmetic/test/9999'" in found[1]["error"]
    assert "arithmetic/test/2 is another problem now" in found[2]["error"]


def test_each_part_of_an_evaluation_by_the_task_of_that_part(compose_config: Make, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    evaluated(path, "easy", arithmetic({1: 0.5, 5: 0.5})[:2], "#RIGHT")
    evaluated(path, "hard", arithmetic({2: 0.5, 4: 0.5})[:2], "#RIGHT")
    rows = [*read(path), {"question": "1+1", "response": ""}, read(path)[0] | {"part": "huge"}]
    found = graded(compose_config, written(path, rows), "benchmark=arithmetic_levels", "batch=3")
    assert [row["score"] for row in found] == [1.0, 1.0, 1.0, 1.0, None, None]
    assert "name its grader by task=" in found[4]["error"]
    assert "its part 'huge' is none of easy, hard" in found[5]["error"]


def test_a_training_runs_samples_are_of_its_training_problems(compose_config: Make, tmp_path: Path) -> None:
    task = ArithmeticTask(seed=0, train_problems=4096, test_problems=512, levels={1: 1})
    problem = task.examples("train")[0]
    row = {"iteration": 0, "uid": problem.uid, "prompt": "", "reference": problem.answer, "answer": "5"}
    rows = [row | {"response": f"#{problem.answer}"}]
    options = ("task=arithmetic", "task.source.levels={1: 1, 2: 0, 3: 0, 4: 0, 5: 0}")
    (found,) = graded(compose_config, written(tmp_path / "samples.jsonl", rows), *options)
    assert found == rows[0] | {"score": 1.0, "solved": True, "error": None, "feedback": None}


def test_what_the_machine_could_not_grade_is_counted_apart(
    compose_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = Reward(score=0.0, error="worker killed", infrastructure=True)
    monkeypatch.setattr(ArithmeticTask, "grade", lambda *_: [verdict])
    rows = [{"question": "10+10", "response": "#20"}]
    (row,) = graded(compose_config, written(tmp_path / "rows.jsonl", rows), "task=arithmetic")
    assert (row["score"], row["error"]) == (0.0, "infrastructure error: worker killed")
    assert {"errors: 0", "infrastructure errors: 1"} <= set(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("stop", "ends", "said"),
    [
        (KeyboardInterrupt(), RunStopped, "SIGINT: stopped; the first 2 rows are graded in"),
        (WorkerStartError("no math-verify"), RunFailed, "no math-verify; the first 2 rows are graded in"),
    ],
)
def test_what_was_graded_before_it_was_stopped_stays(
    compose_config: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: BaseException,
    ends: type[Exception],
    said: str,
) -> None:
    plain = ArithmeticTask.grade

    def grade(task: ArithmeticTask, examples: Any, responses: Any) -> list[Reward]:
        if "stop" in responses:
            raise stop
        return plain(task, examples, responses)

    monkeypatch.setattr(ArithmeticTask, "grade", grade)
    rows = [{"question": "10+10", "response": text} for text in ("#20", "#21", "#20", "stop")]
    path = written(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ends, match=said):
        graded(compose_config, path, "task=arithmetic", "batch=2")
    assert [row["score"] for row in read(path.with_suffix(".graded") / GRADED_FILE)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("samples={rows}",), "name the grader, task="),
        (("task=math", "benchmark=math", "samples={rows}"), "name the grader, task="),
        (("task=math",), "samples: name a file of JSON Lines"),
        (("task=math", "samples={here}/none.jsonl"), "none.jsonl: cannot be read"),
        (("task=math", "samples={here}"), "cannot be read"),
        (("task=math", "samples={here}/empty.jsonl"), "empty.jsonl: no rows"),
        (("task=math", "samples={here}/text.jsonl"), "no line is a row; line 1: malformed JSON"),
        (("task=math", "samples={rows}", "output_dir={here}/taken"), "taken: holds graded.jsonl already"),
        (("task=math", "samples={rows}", "output_dir={rows}"), "rows.jsonl: is not a folder"),
        (("task=math", "samples={rows}", "output_dir={rows}/x"), "rows.jsonl/x: cannot be written"),
        (("task=math", "samples={rows}", "batch=0"), "batch: expected a number >= 1, got 0"),
        (("task=math", "samples={rows}", "task.source.grader_cpu_s=0"), "cpu_s must be a positive number"),
        (("task=bfcl", "samples={calls}", "data_dir={here}"), "possible_answer.*no such file"),
    ],
)
def test_what_cannot_be_graded_is_one_line_and_leaves_nothing(
    compose_config: Make, tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / GRADED_FILE).touch()
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "text.jsonl").write_text("a\nb\n")
    rows = written(tmp_path / "rows.jsonl", [MATH | {"response": "4"}])
    calls = written(tmp_path / "calls.jsonl", [first("bfcl_small.json") | {"response": ""}])
    before = sorted(tmp_path.rglob("*"))
    given = [each.format(rows=rows, here=tmp_path, calls=calls) for each in overrides]
    if not any(each.startswith("output_dir=") for each in given):
        given.append(f"output_dir={tmp_path}/out")
    with pytest.raises(ConfigError, match=said) as error:
        grade(compose_config(*given, name="grade"))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_paths_may_hold_what_hydra_gives_a_meaning() -> None:
    line = ["samples=a b/x=1,y=[2]/it's.jsonl", "output_dir=plain/path", "task=math", "data_dir=null"]
    expand_paths(line, "samples", "data_dir")
    assert line == [
        r"samples='a b/x=1,y=[2]/it\'s.jsonl'",
        "output_dir=plain/path",
        "task=math",
        "data_dir=null",
    ]


def test_the_program_loads_no_torch(tmp_path: Path) -> None:
    folder = tmp_path / "x=1,y=2"
    folder.mkdir()
    path = written(folder / "rows.jsonl", [MATH | {"response": boxed("0.5")}])
    command = ["grade", "task=math", f"samples={path}", f"output_dir={folder}/again"]
    script = (
        "import runpy, sys\n"
        f"sys.argv = {[str(ROOT / 'eval.py'), *command]}\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n"
        "    print('heavy:', [m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])\n"
    )
    program = [sys.executable, "-c", script]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"graded.jsonl is in {folder}/again", "heavy: []"]
    assert read(folder / "again" / GRADED_FILE)[0]["score"] == 1.0
