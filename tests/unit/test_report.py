"""Files and tables that an evaluation leaves behind."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from pipo.evaluation.paper_table import write_tables
from pipo.evaluation.results import EvaluationResult, LevelResult, Summary
from pipo.evaluation.results_file import write_results
from pipo.evaluation.statistics import Estimate
from pipo.evaluation.summary_tables import before_after_table, benchmark_table


def summary(accuracy: float, grader_errors: int = 0) -> Summary:
    value = Estimate(value=accuracy, low=accuracy - 0.02, high=accuracy + 0.02)
    return EvaluationResult(
        pass_at_k={1: value, 8: Estimate(value=0.9, low=0.88, high=0.92)},
        majority={8: Estimate(value=0.6, low=0.5, high=0.7)},
        reward=value,
        rewards={},
        response_length=Estimate(value=412.34, low=400.0, high=420.0),
        truncated=Estimate(value=0.01, low=0.0, high=0.02),
        levels={"[5]": LevelResult(accuracy=value, problems=7)},
        grader_errors=grader_errors,
        infrastructure_errors=5 * grader_errors,
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
        results = {"arithmetic": summary(accuracy)}
        path = write_results(folder, {"results": results, "metadata": {"model": "tiny"}})
    assert [file.name for file in folder.iterdir()] == ["results.json"]
    content = json.loads(path.read_text())
    assert content["results"]["arithmetic"]["pass@1"] == 0.25
    assert content["metadata"] == {"model": "tiny"}
    assert {"_timestamp", "_git_commit_hash", "_evaluate_version"} <= set(content)


def cells(rendered: str, label: str) -> list[str]:
    """The words of the line that starts with this label, after the label."""
    (line,) = [line for line in rendered.splitlines() if line.strip().startswith(label)]
    return line.strip().removeprefix(label).split()


def content(**changes: Any) -> dict[str, Any]:
    """What results.json holds of two parts, one of them without a vote."""
    math, code = summary(0.5, grader_errors=2), summary(0.25)
    del code["maj@8"], code["maj@8_interval"]
    shares = {"Math & more": {"math": 1.0}, "Code": {"code": 1.0}}
    values = {"Math & more": 0.5, "Code": 0.25}
    return {
        "results": {"math": math, "code": code},
        "average": {
            "pass@1": 0.375,
            "pass@1_interval": [0.35, 0.4],
            "pass@8": 0.9,
            "columns": {name: {"pass@1": values[name], "shares": shares[name]} for name in shares},
        },
        "not_covered": [],
        "metadata": {
            "model": {"name": "my_model"},
            "parts": {"math": {"left_out": {"count": 3}}, "code": {"left_out": {"count": 0}}},
        },
        **changes,
    }


MISSING = [{"name": "live", "weight": 0.3, "why": "needs 100% of\nsome service"}]


def test_benchmark_table_has_a_row_per_part_and_the_average() -> None:
    rendered = text(benchmark_table("real [test]", content(not_covered=MISSING)))
    assert "real [test]" in rendered
    assert "[95% interval]" in rendered
    assert cells(rendered, "math ") == [
        "20",
        "50.0",
        "[48.0,",
        "52.0]",
        "90.0",
        "60.0",
        "412.3",
        "1.0",
        "2",
        "3",
    ]
    assert cells(rendered, "code ") == ["20", "25.0", "[23.0,", "27.0]", "90.0", "412.3", "1.0", "0", "0"]
    assert cells(rendered, "average ") == ["40", "37.5", "[35.0,", "40.0]", "90.0", "2", "3"]
    assert "columns of the average: Math & more 50.0, Code 25.0" in rendered
    # A level may be named anything, brackets included.
    assert "math, pass@1 by level  [5]: 50.0" in rendered
    assert "not covered: live (30%): needs 100% of" in rendered
    assert "math: 10 responses could not be graded for the machine's sake" in rendered
    assert "code: 0 responses" not in rendered


def test_benchmark_table_is_80_wide_with_usual_names_and_large_numbers() -> None:
    wide = content()
    worst = summary(1.0, grader_errors=1000) | {"pass@1_interval": [1.0, 1.0], "problems": 14042}
    wide["results"] = {"olympiadbench": worst | {"response_length": 16384.0, "truncated": 1.0, "pass@8": 1.0}}
    wide["metadata"]["parts"] = {"olympiadbench": {"left_out": {"count": 100}}}
    row = next(line for line in text(benchmark_table("x", wide)).splitlines() if "olympiadbench" in line)
    assert row.split() == [
        *(
            "olympiadbench",
            "14042",
            "100.0",
            "[100.0,",
            "100.0]",
            "100.0",
            "60.0",
            "16384",
            "100.0",
            "1000",
            "100",
        )
    ]


def test_a_single_part_has_no_average_row() -> None:
    one = content()
    del one["results"]["code"]
    one["average"]["columns"] = {"math": {"pass@1": 0.5, "shares": {"math": 1.0}}}
    assert "average" not in text(benchmark_table("x", one))


def test_tables_for_papers(tmp_path: Path) -> None:
    write_tables(tmp_path, content(not_covered=MISSING))
    assert (tmp_path / "table.md").read_text() == (
        "| model | Math & more | Code | Avg |\n"
        "|---|---:|---:|---:|\n"
        "| my\\_model | 50.0 | 25.0 | 37.5 |\n"
        "\nnot covered: live (30%): needs 100% of\nsome service\n"
    )
    assert (tmp_path / "table.tex").read_text().splitlines() == [
        "% needs \\usepackage{booktabs}",
        "\\begin{tabular}{lrrr}",
        "\\toprule",
        "model & Math \\& more & Code & Avg \\\\",
        "\\midrule",
        "my\\_model & 50.0 & 25.0 & 37.5 \\\\",
        "\\bottomrule",
        "\\end{tabular}",
        "% not covered: live (30%): needs 100% of some service",
    ]


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b", r"a\_b"),
        ("50% & $1 #2", r"50\% \& \$1 \#2"),
        (r"\{x}", r"\textbackslash{}\{x\}"),
        ("~/m^2", r"\textasciitilde{}/m\textasciicircum{}2"),
    ],
)
def test_latex_escapes(tmp_path: Path, text: str, latex: str) -> None:
    named = content()
    named["metadata"]["model"]["name"] = text
    write_tables(tmp_path, named)
    assert f"\n{latex} & 50.0 &" in (tmp_path / "table.tex").read_text()


def test_before_after_table() -> None:
    rendered = text(before_after_table(summary(0.25), summary(0.5, grader_errors=3)))
    assert cells(rendered, "pass@1 (%) ") == ["25.0", "[23.0,", "27.0]", "50.0", "[48.0,", "52.0]", "+25.0"]
    assert cells(rendered, "pass@8 (%)") == ["90.0", "[88.0,", "92.0]", "90.0", "[88.0,", "92.0]", "+0.0"]
    assert cells(rendered, "maj@8 (%)")[-1] == "+0.0"
    assert cells(rendered, "reward") == ["0.250", "0.500", "+0.250"]
    assert cells(rendered, "length (tokens)") == ["412.3", "412.3", "+0.0"]
    assert cells(rendered, "pass@1 (%), level [5]")[-1] == "+25.0"
    assert "responses that the grader failed on: 0, then 3" in rendered
    assert "not graded for the machine's sake, score 0: 0, then 15" in rendered


def test_before_after_table_refuses_different_evaluations() -> None:
    other = summary(0.5)
    del other["pass@8"]
    with pytest.raises(ValueError, match="same metrics"):
        before_after_table(summary(0.5), other)
    with pytest.raises(ValueError, match="differ in problems: 20 and 21"):
        before_after_table(summary(0.5), summary(0.5) | {"problems": 21})
