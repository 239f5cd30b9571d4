r"""One odd row costs itself: it is left out with its place and the reason, and the others go on.

``\ud83e`` is the first half of an emoji whose second half somebody's tool cut off: JSON can say it, UTF-8,
tokenizers and files cannot.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipo.callbacks.samples import SampleLog
from pipo.errors import TaskError
from pipo.evaluation.results import ProblemResult, Sample
from pipo.evaluation.samples_file import append_samples, recover_samples
from pipo.records.problems import Reward
from pipo.records.text import json_text, whole_text
from tests.unit.test_math_task import fields, make

COLUMNS = fields(answer="answer", answer_form="plain", level=None)
GOOD = '{"problem": "What is 2+3?", "answer": "5", "level": 1}'
HALF = "\\ud83e"  # as it stands in a file
LONG = "7" * 5000
ODD: dict[str, tuple[str | bytes, str]] = {
    "half in the question": (f'{{"problem": "What is {HALF}?", "answer": "5"}}', "question holds half"),
    "half in the answer": (f'{{"problem": "Name it.", "answer": "{HALF}"}}', "answer holds half"),
    "5,000 digits": (f'{{"problem": "1?", "answer": {LONG}}}', "has 5000 characters; the grader reads 2000"),
    "5,000 digits in text": (f'{{"problem": "1?", "answer": "{LONG}"}}', "has 5000 characters"),
    "60,000 digits": (f'{{"problem": "1?", "answer": {"7" * 60_000}}}', "has 60000 characters"),
    "nested 5,000 digits": (f'{{"problem": "1?", "answer": [[{LONG}]]}}', "must hold a text"),
    "5,000 digits alone": (LONG, "must be a JSON object, got"),
    "not a number": ('{"problem": "1?", "answer": NaN}', "is nan, which is no answer"),
    "infinity": ('{"problem": "1?", "answer": -Infinity}', "is -inf, which is no answer"),
    "too large a float": ('{"problem": "1?", "answer": 1e999}', "is inf, which is no answer"),
    "one of a list": ('{"problem": "1?", "answer": [1, NaN]}', "is nan, which is no answer"),
    "nothing": ('{"problem": "1?", "answer": null}', "must hold a text, a number or a list"),
    "truth": ('{"problem": "1?", "answer": true}', "must hold a text, a number or a list"),
    "an object": ('{"problem": "1?", "answer": {"a": 1}}', "must hold a text, a number or a list"),
    "an empty list": ('{"problem": "1?", "answer": []}', "is an empty list"),
    "blank": ('{"problem": "1?", "answer": " "}', "is blank"),
    "no answer": ('{"problem": "1?"}', "no field 'answer'"),
    "a number for a question": ('{"problem": 5, "answer": 1}', "must be a text"),
    "not JSON": ("What is 2+3?", "malformed JSON"),
    "cut": (GOOD[:-9], "malformed JSON"),
    "a list": ("[1, 2]", "must be a JSON object"),
    "deep": ("[" * 100_000, "cannot be read"),
    "deep answer": ('{"problem": "1?", "answer": ' + "[" * 100_000 + "}", "cannot be read"),
    "latin-1": ('{"problem": "2 é 3?", "answer": "6"}'.encode("latin-1"), "not UTF-8 text"),
    "zeros": (b"\0\0\0\0", "malformed JSON"),
}


def read(tmp_path: Path, *lines: str | bytes, head: bytes = b"", end: bytes = b"\n"):
    raw = [line if isinstance(line, bytes) else line.encode() for line in lines]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(head + b"".join(line + end for line in raw))
    return make(file, COLUMNS), file


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_row_is_left_out_by_its_place_and_the_others_go_on(tmp_path, kind):
    line, why = ODD[kind]
    good = json.loads(GOOD)
    task, file = read(tmp_path, GOOD, line, GOOD)
    assert [(e.question, e.answer) for e in task.examples("test")] == [(good["problem"], "5")] * 2
    (left,) = task.dropped("test")
    assert left.place == f"{file}, line 2"
    assert why in left.reason
    left.reason.encode()  # it goes into a log and onto a terminal

    alone, _ = read(tmp_path, line)
    with pytest.raises(TaskError, match="none of the 1 rows can be used") as caught:
        alone.examples("test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "end"),
    [(b"\xef\xbb\xbf", b"\n"), (b"", b"\r\n"), (b"\n \n", b"\n\n"), (b"\xef\xbb\xbf", b"\r\n")],
)
def test_what_editors_do_to_a_file_costs_nothing(tmp_path, head, end):
    task, _ = read(tmp_path, GOOD, GOOD, head=head, end=end)
    assert len(task.examples("test")) == 2
    assert not task.dropped("test")


def test_a_list_of_rows_loses_the_odd_ones_only(tmp_path):
    file = tmp_path / "rows.json"
    file.write_bytes(b"\xef\xbb\xbf" + f'[{GOOD}, 5, {{"problem": "1?", "answer": NaN}}, {GOOD}]'.encode())
    task = make(file, COLUMNS)
    assert len(task.examples("test")) == 2
    assert [row.place for row in task.dropped("test")] == [f"{file}, row 2", f"{file}, row 3"]


def test_verdicts_can_be_written_and_put_into_a_prompt_whatever_a_program_printed():
    reward = Reward(score=0.0, answer="print('\ud83e')", feedback="got \ud83e", error="\udc80 \U0001f929 é")
    assert (reward.answer, reward.feedback) == ("print('\\ud83e')", "got \\ud83e")
    assert reward.error == "\\udc80 \U0001f929 é"
    assert whole_text("a \U0001f929") == "a \U0001f929"


def test_files_of_samples_hold_any_text_and_give_it_back(tmp_path):
    text = "half \ud83e, whole \U0001f929, é"
    line = json_text({"text": text})
    assert json.loads(line.encode().decode()) == {"text": text}
    assert "whole \U0001f929, é" in line  # text stays text, for people and for grep
    sample = Sample(response=text, score=0.0, answer=text, error=None, finished=True, length=3)
    problem = ProblemResult(
        index=0, uid="u", level="", prompt="p", answer=text, majority=None, samples=(sample,)
    )
    append_samples(tmp_path / "samples.jsonl", "part", [problem])
    found = recover_samples(tmp_path / "samples.jsonl", {"part": 1}, 1)
    assert found["part"] == [problem]
    log = SampleLog(path=str(tmp_path / "log.jsonl"), every=1, prompts=1, start=1)
    log.path.write_text(json.dumps({"iteration": 0, "response": text}) + "\n")
    log.on_fit_start(None, None)  # type: ignore[arg-type]
    assert json.loads(log.path.read_text())["response"] == text
