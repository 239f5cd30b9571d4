"""Files and tables that an evaluation leaves behind."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from pipo.evaluation.report import before_after_table, benchmark_table, write_results, write_samples
from pipo.evaluation.results import EvaluationResult, LevelResult, ProblemResult, Sample, Summary
from pipo.evaluation.statistics import Estimate


def summary(accuracy: float, grader_errors: int = 0) -> Summary:
    value = Estimate(value=accuracy, low=accuracy - 0.02, high=accuracy + 0.02)
    return EvaluationResult(
        pass_at_k={1: value, 8: Estimate(value=0.9, low=0.88, high=0.92)},
        reward=value,
        response_length=Estimate(value=412.34, low=400.0, high=420.0),
        truncated=Estimate(value=0.01, low=0.0, high=0.02),
        levels={"[5]": LevelResult(accuracy=value, problems=7)},
        grader_errors=grader_errors,
        problem_count=20,
        sample_count=160,
        confidence=0.95,
        problems=(),
    ).to_summary()


def text(table: Table) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_results_file_is_written_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = tmp_path / "not yet there"
    for accuracy in (0.5, 0.25):
        path = write_results(folder, {"arithmetic": summary(accuracy)}, {"model": "tiny"})
    assert [file.name for file in folder.iterdir()] == ["results.json"]
    content = json.loads(path.read_text())
    assert content["results"]["arithmetic"]["pass@1"] == 0.25
    assert content["metadata"] == {"model": "tiny"}
    assert {"_timestamp", "_git_commit_hash", "_evaluate_version"} <= set(content)


def test_samples_file_has_a_readable_line_per_problem(tmp_path: Path) -> None:
    sample = Sample(response="π ≈ 3\n#3", score=1.0, answer="3", error=None, finished=True, length=8)
    problems = [
        ProblemResult(index=i, uid=f"p{i}", level="1", prompt="π?", answer="3", samples=(sample, sample))
        for i in range(3)
    ]
    lines = write_samples(tmp_path / "new", problems).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert "π ≈ 3" in lines[0]
    record = json.loads(lines[1])
    assert list(record) == ["uid", "level", "solved", "prompt", "answer", "samples"]
    assert record["solved"] == "2/2"
    assert record["samples"][0] == {
        "response": "π ≈ 3\n#3",
        "score": 1.0,
        "answer": "3",
        "error": None,
        "finished": True,
        "length": 8,
    }


def cells(rendered: str, label: str) -> list[str]:
    """The words of the line that starts with this label, after the label."""
    (line,) = [line for line in rendered.splitlines() if line.strip().startswith(label)]
    return line.strip().removeprefix(label).split()


def test_benchmark_table() -> None:
    rendered = text(benchmark_table("arithmetic [test]", summary(0.5)))
    assert "arithmetic [test]" in rendered
    assert "95% interval" in rendered
    assert cells(rendered, "pass@1 (%) ") == ["50.0", "[48.0,", "52.0]"]
    assert cells(rendered, "reward") == ["0.500", "[0.480,", "0.520]"]
    assert cells(rendered, "length (tokens)") == ["412.3", "[400.0,", "420.0]"]
    # A level may be named anything, brackets included.
    assert cells(rendered, "pass@1 (%), level [5]") == ["50.0", "[48.0,", "52.0]"]
    assert "20 problems, 160 responses" in rendered
    assert "grader" not in rendered


def test_before_after_table() -> None:
    rendered = text(before_after_table(summary(0.25), summary(0.5, grader_errors=3)))
    assert cells(rendered, "pass@1 (%) ") == ["25.0", "[23.0,", "27.0]", "50.0", "[48.0,", "52.0]", "+25.0"]
    assert cells(rendered, "pass@8 (%)") == ["90.0", "[88.0,", "92.0]", "90.0", "[88.0,", "92.0]", "+0.0"]
    assert cells(rendered, "reward") == ["0.250", "0.500", "+0.250"]
    assert cells(rendered, "length (tokens)") == ["412.3", "412.3", "+0.0"]
    assert cells(rendered, "pass@1 (%), level [5]")[-1] == "+25.0"
    assert "responses that the grader failed on: 0, then 3" in rendered


def test_before_after_table_refuses_different_evaluations() -> None:
    other = summary(0.5)
    del other["pass@8"]
    with pytest.raises(ValueError, match="same metrics"):
        before_after_table(summary(0.5), other)
    with pytest.raises(ValueError, match="differ in problems: 20 and 21"):
        before_after_table(summary(0.5), summary(0.5) | {"problems": 21})
