"""The record of every start of a run, and what is said when the task is another one by then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipo.runs.run_folder import RECORD_FILE, record_run


def test_a_task_that_changed_between_two_starts_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for task in ("prompts 1-aa", "prompts 1-aa", "prompts 1-bb"):
        assert caplog.messages == []
        record_run(tmp_path, ["python", "train.py"], task)
    (said,) = caplog.messages
    assert said.startswith("the task was prompts 1-aa when the run started before and is prompts 1-bb now: ")
    lines = (tmp_path / RECORD_FILE).read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["prompts 1-aa", "prompts 1-aa", "prompts 1-bb"]


@pytest.mark.parametrize("before", ['{"command": []}\n', '{"comm\n{"command": []}\n', '{"command": [], "ta'])
def test_a_record_without_a_task_or_a_damaged_one_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str
) -> None:
    (tmp_path / RECORD_FILE).write_text(before)
    record_run(tmp_path, None, "prompts 1-aa")
    assert caplog.messages == []
