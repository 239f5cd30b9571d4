"""Metrics files: every row is there at once, a resumed run continues, late columns appear."""

from __future__ import annotations

import csv

import pytest

from pipo.loggers import MetricsFileLogger
from pipo.run_log import read_metrics


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_written_as_they_come_and_late_columns_fill_in(tmp_path):
    logger = MetricsFileLogger(folder=str(tmp_path), start=0)
    logger.log_metrics({"b": 1.0}, step=0)
    logger.log_metrics({"b": 2.0, "a": 0.1}, step=1)
    logger.log_metrics({"b": 3.0}, step=2)
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
        first.log_metrics({"a": float(step)}, step=step)
    second = MetricsFileLogger(folder=str(tmp_path), start=2)
    second.log_metrics({"a": 20.0}, step=2)
    assert [row["a"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0.0, 1.0, 20.0]
    assert [row["a"] for row in table(tmp_path)] == ["0.0", "1.0", "20.0"]


def test_a_line_cut_by_a_crash_is_left_out_but_a_broken_one_is_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0, "a": 1.0}\n{"iteration": 1, "a"')
    assert read_metrics(path) == [{"iteration": 0, "a": 1.0}]
    path.write_text('{"iteration": 0, "a"\n{"iteration": 1, "a": 1.0}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_metrics(path)


def test_metrics_without_an_iteration_are_refused(tmp_path):
    with pytest.raises(ValueError, match="iteration"):
        MetricsFileLogger(folder=str(tmp_path), start=0).log_metrics({"a": 1.0})
