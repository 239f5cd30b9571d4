"""Reading a run's metrics and drawing its curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from pipo.plot import draw, main, phase_seconds, plot_curves
from pipo.run_log import Run, read_run, smooth

TITLES = [
    "Held-out accuracy and training reward",
    "Policy-improvement feedback ξ",
    "Coefficient φ(ξ)",
    "Response length",
    "Time per iteration",
]


def rows(pipo: bool, iterations: int = 12) -> dict[int, dict[str, float]]:
    table: dict[int, dict[str, float]] = {}
    for i in range(iterations):
        row = {"train/reward": 0.2 + 0.05 * i, "train/response_length": 9.0 + i}
        row |= {"time/iteration": 6.0, "time/generate": 3.0, "time/score": 0.5, "time/update": 2.0}
        if i % 5 == 0:
            row |= {"eval/pass@1": 0.3, "eval/pass@1_low": 0.25, "eval/pass@1_high": 0.35}
        if pipo:
            # The first iteration has no history: progress is nan and no update is made.
            row |= {"pipo/progress": math.nan if i == 0 else 1.0 if i % 2 else -2.0}
            row |= {"pipo/coefficient": 0.0 if i == 0 else 1.0 if i % 2 else -0.2}
            row |= {"pipo/applied": float(i > 0)}
        table[i] = row
    return table


def write(folder: Path, table: dict[int, dict[str, float]]) -> Path:
    folder.mkdir(parents=True)
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps({"iteration": i} | row) + "\n" for i, row in table.items()))
    return path


def words(figure: Figure) -> str:
    """All text inside the panels, legends included."""
    found = []
    for axis in figure.axes:
        found += [text.get_text() for text in axis.texts]
        legend = axis.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
        found += [axis.get_title("left"), axis.get_title("right")]
    return "\n".join(found)


def titles(figure: Figure) -> list[str]:
    # Without the style of the written file a title stands in the middle.
    return [axis.get_title("left") or axis.get_title("center") for axis in figure.axes]


def test_one_run_gives_a_png_with_all_panels(tmp_path: Path) -> None:
    path = write(tmp_path / "grpo_pipo", rows(pipo=True))
    plot_curves(path, tmp_path / "curves.png")
    height, width = imread(tmp_path / "curves.png").shape[:2]
    assert (height, width) == (1560, 2300)
    figure = draw([read_run("grpo_pipo", path)])
    assert titles(figure) == TITLES
    assert "retrospective update in 11 of 12 iterations" in words(figure)
    for axis in figure.axes:
        assert axis.get_ylabel() != ""


def test_feedback_is_drawn_from_zero_with_two_colours() -> None:
    axis = draw([Run(name="run", rows=rows(pipo=True))]).axes[1]
    heights: dict[Any, set[float]] = {}
    for patch in axis.patches:
        assert isinstance(patch, Rectangle)
        if patch.get_height() != 0:
            heights.setdefault(patch.get_facecolor(), set()).add(patch.get_height())
    assert sorted(map(sorted, heights.values())) == [[-2.0], [1.0]]


def test_a_baseline_run_says_what_it_did_not_log() -> None:
    figure = draw([Run(name="grpo", rows=rows(pipo=False))])
    assert titles(figure) == TITLES
    assert "no pipo/progress was logged" in words(figure)
    assert "no pipo/coefficient was logged" in words(figure)


def test_a_run_without_any_metric_can_be_drawn(tmp_path: Path) -> None:
    figure = draw([Run(name="empty", rows={0: {}})])
    assert titles(figure) == TITLES
    for missing in ("training reward", "held-out accuracy", "response length"):
        assert f"no {missing} was logged" in words(figure)
    assert "no step times" in words(figure)
    plot_curves(write(tmp_path / "empty", {0: {}}), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_several_runs_share_the_panels() -> None:
    runs = [
        Run(name="grpo_pipo", rows=rows(pipo=True)),
        Run(name="grpo", rows=rows(pipo=False)),
        Run(name="empty", rows={0: {}}),
    ]
    figure = draw(runs)
    assert titles(figure) == [*TITLES[:-1], "Mean time per iteration"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["grpo_pipo", "grpo", "empty"]
    assert "no held-out accuracy was logged by empty" in words(figure)
    assert "grpo: 6.0 s" in words(figure)
    assert "empty: no step times were logged" in words(figure)


def test_phases_and_the_rest_add_up_to_the_iteration() -> None:
    phases = phase_seconds(Run(name="run", rows=rows(pipo=False, iterations=2)))
    # 6 - 3 - 0.5 - 2 = 0.5 seconds remain; annotate and retrospective were not logged.
    assert {name: seconds.tolist() for name, seconds in phases.items()} == {
        "generate": [3.0, 3.0],
        "score": [0.5, 0.5],
        "update": [2.0, 2.0],
        "other": [0.5, 0.5],
    }


def test_smoothing_cuts_the_window_at_the_ends() -> None:
    # (1+2)/2, (1+2+6)/3, (2+6+4)/3, (6+4)/2
    assert smooth(np.array([1.0, 2.0, 6.0, 4.0]), 3).tolist() == [1.5, 3.0, 4.0, 5.0]
    assert smooth(np.array([1.0, 2.0]), 1).tolist() == [1.0, 2.0]


def test_a_resumed_run_counts_the_later_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [(0, 0.1), (1, 0.2), (2, 0.9), (2, 0.3), (3, math.nan)]
    path.write_text("".join(json.dumps({"iteration": i, "train/reward": r}) + "\n" for i, r in lines))
    iterations, values = read_run("run", path).series("train/reward")
    assert iterations.tolist() == [0, 1, 2]  # not a number is not drawn
    assert values.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("line", ["{", '{"train/reward": 1.0}', "[1]"])
def test_a_broken_log_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        read_run("run", path)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, rows(pipo=False))
    main([str(tmp_path / "a")])
    assert (tmp_path / "a" / "curves.png").is_file()
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "both.png")])
    assert (tmp_path / "both.png").is_file()
    for arguments in (["a", "b"], ["nowhere"]):
        with pytest.raises(SystemExit):
            main([str(tmp_path / argument) for argument in arguments])
    message = capsys.readouterr().err
    assert "--out is needed" in message
    assert "holds no metrics.jsonl" in message
