"""Metrics files: every row is there at once, a resumed run continues, late columns appear."""

from __future__ import annotations

import csv
import json

import pytest

from pipo.runs.metric_files import MetricsFileLogger
from pipo.runs.run_log import read_metrics


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_written_as_they_come_and_late_columns_fill_in(tmp_path):
    logger = MetricsFileLogger(folder=str(tmp_path), start=0)
    logger.log_row({"b": 1.0}, 0)
    logger.log_row({"b": 2.0, "a": 0.1}, 1)
    logger.log_row({"b": 3.0}, 2)
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"iteration": 0, "b": 1.0},
        {"iteration": 1, "b": 2.0, "a": 0.1},
        {"iteration": 2, "b": 3.0},
    ]
    assert table(tmp_path) == [
        {"iteration": "0", "a": "", "b": "1.0"},
        {"iteration": "1", "a": "0.1", "b": "2.0"},
        {"iteration": "2", "a": "", "b": "3.0"},
    ]


def test_a_resumed_run_drops_what_its_checkpoint_does_not_know(tmp_path):
    first = MetricsFileLogger(folder=str(tmp_path), start=0)
    for step in range(4):
        first.log_row({"a": float(step)}, step)
    second = MetricsFileLogger(folder=str(tmp_path), start=2)
    second.log_row({"a": 20.0}, 2)
    assert [row["a"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0.0, 1.0, 20.0]
    assert [row["a"] for row in table(tmp_path)] == ["0.0", "1.0", "20.0"]


def test_a_line_cut_by_a_crash_is_left_out_but_a_broken_one_is_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0, "a": 1.0}\n{"iteration": 1, "a"')
    assert read_metrics(path) == [{"iteration": 0, "a": 1.0}]
    path.write_text('{"iteration": 0, "a"\n{"iteration": 1, "a": 1.0}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_metrics(path)


def test_what_others_log_before_and_after_a_row_is_part_of_it(tmp_path):
    """As LearningRateMonitor does before an iteration, and ``LightningModule.log`` after it."""
    logger = MetricsFileLogger(folder=str(tmp_path), start=0)
    for step in range(2):
        logger.log_metrics({"early": step + 0.1}, step=step)
        logger.log_row({"a": float(step)}, step)
        logger.log_metrics({"late": step + 0.2, "a": 9.0, "epoch": 0}, step=step)
    logger.log_metrics({"early": 2.1}, step=2)  # of an iteration that is not finished
    expected = [{"iteration": n, "early": n + 0.1, "a": float(n), "late": n + 0.2} for n in range(2)]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected
    assert table(tmp_path) == [{name: str(value) for name, value in row.items()} for row in expected]


def test_metrics_without_an_iteration_are_refused(tmp_path):
    with pytest.raises(ValueError, match="iteration"):
        MetricsFileLogger(folder=str(tmp_path), start=0).log_metrics({"a": 1.0})


def test_a_character_that_a_crash_cut_in_two_and_other_ends_of_lines_in_a_response(tmp_path):
    path = tmp_path / "samples.jsonl"
    row = {"iteration": 0, "response": "one\u2028two\x85three \u00e9"}
    whole = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        # All but the end of the line: the row is complete, though nothing says that it is.
        assert read_metrics(path) == ([row, row] if cut == len(whole) - 1 else [row])


def test_what_a_killed_program_wrote_is_taken_over_without_gap_or_repeat(tmp_path):
    """Killed after the checkpoint at iteration 2."""
    first = MetricsFileLogger(folder=str(tmp_path), start=0)
    for step in range(4):
        first.log_row({"a": float(step), f"late{step}": 1.0}, step)
    lines, table = (tmp_path / "metrics.jsonl").read_bytes(), (tmp_path / "metrics.csv").read_bytes()
    checkpoint = len(b"".join(lines.splitlines(keepends=True)[:2]))
    for cut in range(checkpoint, len(lines), 5):
        (tmp_path / "metrics.jsonl").write_bytes(lines[:cut])
        (tmp_path / "metrics.csv").write_bytes(table[:cut])
        (tmp_path / ".metrics.csv.partial").write_bytes(table[:cut])
        second = MetricsFileLogger(folder=str(tmp_path), start=2)
        for step in (2, 3):
            second.log_row({"a": float(step), f"late{step}": 1.0}, step)
        assert (tmp_path / "metrics.jsonl").read_bytes() == lines
        assert (tmp_path / "metrics.csv").read_bytes() == table
        assert len(list(tmp_path.iterdir())) == 2
