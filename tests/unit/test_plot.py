"""Drawing runs: what a page holds for one run and for groups, and how groups are found."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import StepPatch

from pipo.analysis.plotting.__main__ import _groups, main
from pipo.analysis.plotting.bars import phase_seconds, signed_mean
from pipo.analysis.plotting.curves import draw, plot_curves
from pipo.analysis.plotting.groups import Group, band, find_groups, read_group
from pipo.analysis.plotting.style import DASHES, MARKERS, WIDTH, look, time_unit
from pipo.analysis.plotting.theory import draw_theory, factors
from pipo.analysis.run_metrics import Run, read_run, smooth
from pipo.errors import ConfigError
from pipo.runs.run_log import METRICS_FILE

# The 97.5 % quantile of Student's t with 1 degree of freedom: tan(0.475 pi).
T1 = math.tan(0.475 * math.pi)

TITLES = [
    "Held-out accuracy",
    "Accuracy by wall clock",
    "Training reward",
    "Response length",
    "Gradient, base update",
    "Gradient, retrospective",
    "Feedback ξ, in std of the window",
    "Coefficient φ(ξ)",
]


def rows(pipo: bool, iterations: int = 12, reward: float = 0.2) -> dict[int, dict[str, float]]:
    table: dict[int, dict[str, float]] = {}
    for i in range(iterations):
        row = {"train/reward": reward + 0.05 * i, "train/response_length": 9.0 + i, "policy/grad_norm": 0.5}
        row |= {"time/iteration": 6.0, "time/generate": 3.0, "time/score": 0.5, "time/update": 2.0}
        if i % 5 == 0:
            row |= {"eval/pass@1": reward, "eval/pass@1_low": 0.15, "eval/pass@1_high": 0.35}
        if pipo:
            # The first iteration has no history: progress is nan and no update is made.
            row |= {"pipo/progress": math.nan if i == 0 else 1.0 if i % 2 else -2.0}
            row |= {"pipo/coefficient": 0.0 if i == 0 else 1.0 if i % 2 else -0.2}
            row |= {"pipo/applied": float(i > 0)} | ({"pipo/grad_norm": 2.0} if i else {})
        table[i] = row
    return table


def write(folder: Path, table: dict[int, dict[str, float]], config: str = "") -> Path:
    folder.mkdir(parents=True)
    path = folder / METRICS_FILE
    path.write_text("".join(json.dumps({"iteration": i} | row) + "\n" for i, row in table.items()))
    if config:
        (folder / "config.yaml").write_text(config)
    return path


def group(name: str, *tables: dict[int, dict[str, float]]) -> Group:
    return Group(name=name, runs=tuple(Run(name=f"{name}{n}", rows=t) for n, t in enumerate(tables)))


def config(pipo: str, seed: int, extra: str = "") -> str:
    node = "pipo: {name: none}" if pipo == "none" else f"pipo: {{name: {pipo}, lambda: 0.1, window: 8}}"
    return f"algo: {{name: grpo}}\n{node}\nseed: {seed}\noutput_dir: somewhere/{pipo}{seed}\n{extra}"


def words(figure: Figure) -> str:
    """All text inside the panels."""
    found = []
    for axis in figure.axes:
        found += [text.get_text() for text in axis.texts]
        found += [axis.get_title("left"), axis.get_title("right"), axis.get_xlabel()]
    return "\n".join(found)


def titles(figure: Figure) -> list[str]:
    return [axis.get_title("left") for axis in figure.axes if axis.get_title("left")]


def test_one_run_gives_a_page_with_all_panels(tmp_path: Path) -> None:
    path = write(tmp_path / "grpo_pipo", rows(pipo=True))
    plot_curves(path, tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").shape[1] == 200 * WIDTH
    figure = draw([group("grpo_pipo", rows(pipo=True))])
    assert titles(figure) == [*TITLES, "Time per iteration"]
    assert "applied in 11 of 12 iterations" in words(figure)
    assert all(axis.get_ylabel() for axis in figure.axes)


def heights(figure: Figure, title: str) -> list[list[float]]:
    """Of the shapes in the panel with this title, without zeros."""
    (axis,) = [axis for axis in figure.axes if axis.get_title("left") == title]
    shapes = [patch for patch in axis.patches if isinstance(patch, StepPatch)]
    return [sorted({float(v) for v in shape.get_data().values if v}) for shape in shapes]


def test_feedback_stands_above_and_below_zero_in_two_colours() -> None:
    figure = draw([group("run", rows(pipo=True))])
    assert heights(figure, "Feedback ξ, in std of the window") == [[1.0], [-2.0]]
    assert heights(figure, "Coefficient φ(ξ)") == [[1.0], [-0.2]]
    (axis,) = [axis for axis in figure.axes if axis.get_title("left").startswith("Feedback")]
    up, down = [patch.get_facecolor() for patch in axis.patches]
    assert up != down


def test_rises_and_drops_of_several_runs_do_not_cancel() -> None:
    one = {0: {"pipo/progress": 1.0}, 1: {"pipo/progress": 3.0}}
    other = {0: {"pipo/progress": -2.0}, 1: {}}
    up, down = signed_mean(group("g", one, other), "pipo/progress", last=2)
    assert up.tolist() == [0.5, 1.5, 0.0]
    assert down.tolist() == [-1.0, 0.0, 0.0]


def test_a_baseline_run_says_what_it_did_not_log() -> None:
    figure = draw([group("grpo", rows(pipo=False))])
    assert titles(figure) == [*TITLES, "Time per iteration"]
    for metric in ("pipo/progress", "pipo/coefficient", "pipo/grad_norm"):
        assert f"no {metric} was logged" in words(figure)


def test_a_run_without_any_metric_can_be_drawn(tmp_path: Path) -> None:
    figure = draw([group("empty", {0: {}})])
    assert titles(figure) == [*TITLES, "Time per iteration"]
    for missing in ("held-out accuracy", "train/reward", "train/response_length", "step times"):
        assert f"no {missing}" in words(figure)
    plot_curves(write(tmp_path / "empty", {0: {}}), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_groups_share_the_panels() -> None:
    tables = [rows(pipo=True, reward=r) for r in (0.2, 0.3)]
    figure = draw([group("loop", *tables), group("base", rows(pipo=False)), group("empty", {0: {}})])
    assert titles(figure) == [*TITLES, "Mean time per iteration"]
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert {"loop (2 runs)", "base", "empty", "generate", "update"} <= set(labels)
    assert "no held-out accuracy was logged by empty" in words(figure)
    assert "6.00 ± 0.00 s" in words(figure)
    assert "no step times were logged" in words(figure)
    # A band for the two seeds, and one for the interval that the single run logged.
    assert sum(isinstance(c, PolyCollection) for c in figure.axes[0].collections) == 2


def test_a_band_is_the_t_interval_over_runs() -> None:
    found = band(group("g", rows(False, reward=0.2), rows(False, reward=0.3)), "train/response_length")
    assert found.centre.tolist() == [9.0 + i for i in range(12)]
    assert (found.high - found.centre).tolist() == [0.0] * 12
    points = band(group("g", rows(False, reward=0.4), rows(False, reward=0.6)), "eval/pass@1")
    assert points.at.tolist() == [0, 5, 10]
    assert points.centre == pytest.approx([0.5] * 3)
    # Standard error of .4 and .6 is .1; the interval of a share ends at 0 and 1.
    assert T1 * 0.1 > 0.5
    assert (points.low.tolist(), points.high.tolist()) == ([0.0] * 3, [1.0] * 3)
    lengths = [{0: {"train/response_length": v}} for v in (10.0, 12.0)]
    assert band(group("g", *lengths), "train/response_length").high[0] == pytest.approx(11 + T1)
    alone = band(group("g", rows(False)), "eval/pass@1")
    assert (alone.low[0], alone.high[0]) == (0.15, 0.35)


def test_a_band_ends_with_the_shortest_run() -> None:
    found = band(group("g", rows(False), rows(False, iterations=7)), "train/reward", window=3)
    assert found.at.tolist() == list(range(7))


def test_seconds_of_training_add_up_over_iterations() -> None:
    figure = draw([group("g", rows(pipo=False))])
    # Points at iterations 0, 5 and 10, each after iterations of 6 seconds.
    assert list(figure.axes[1].lines[0].get_xdata()) == [6.0, 36.0, 66.0]
    assert figure.axes[1].get_xlabel() == "seconds of training, without held-out scoring"
    assert time_unit([599.0]) == (1.0, "seconds")
    assert time_unit([600.0]) == (60.0, "minutes")
    assert time_unit([10.0, 7200.0]) == (3600.0, "hours")


def test_lines_differ_without_colour() -> None:
    styles = [(str(look(n)["ls"]), look(n)["marker"]) for n in range(len(DASHES) * len(MARKERS))]
    assert len(set(styles)) == len(styles)


def test_phases_and_the_rest_add_up_to_the_iteration() -> None:
    phases = phase_seconds(Run(name="run", rows=rows(pipo=False, iterations=2)))
    # 6 - 3 - 0.5 - 2 = 0.5 seconds remain; annotate and retrospective were not logged.
    assert {name: seconds.tolist() for name, seconds in phases.items()} == {
        "generate": [3.0, 3.0],
        "score": [0.5, 0.5],
        "update": [2.0, 2.0],
        "other": [0.5, 0.5],
    }


def test_the_probe_stands_on_top_of_the_iteration() -> None:
    probed = {i: row | {"time/probe": 2.0} for i, row in rows(pipo=False, iterations=2).items()}
    phases = phase_seconds(Run(name="run", rows=probed))
    assert phases["probe"].tolist() == [2.0, 2.0]
    assert phases["other"].tolist() == [0.5, 0.5]
    figure = draw([group("a", probed), group("b", probed)])
    assert "8.00 s" in words(figure)


def test_a_note_stands_above_the_data() -> None:
    figure = draw([group("loop", rows(True)), group("base", rows(False)), group("other", rows(False))])
    figure.draw_without_rendering()
    noted = [axis for axis in figure.axes if any("was logged by" in text.get_text() for text in axis.texts)]
    assert [axis.get_title("left") for axis in noted] == ["Gradient, retrospective"]
    for axis in noted:
        (note,) = axis.texts
        top = max(axis.transData.transform((0, max(line.get_ydata())))[1] for line in axis.lines)
        assert note.get_window_extent().y0 > top
        assert axis.get_ylim()[0] == 0


def test_a_sweep_is_grouped_by_what_differs_besides_the_seed(tmp_path: Path) -> None:
    for job, (pipo, seed) in enumerate([("none", 1), ("none", 2), ("default", 1), ("default", 2)]):
        write(tmp_path / f"{job}-pipo={pipo},seed={seed}", rows(pipo == "default"), config(pipo, seed))
    changed = config("default", 1).replace("window: 8", "window: 4")
    write(tmp_path / "10-pipo=default,window=4", rows(True), changed)
    groups = find_groups([tmp_path])
    # The window stands beside the option, because runs with the same option differ in it.
    assert [(each.name, len(each.runs)) for each in groups] == [
        ("pipo=none", 2),
        ("pipo=default, window=8", 2),
        ("pipo=default, window=4", 1),
    ]


def test_what_most_runs_have_is_not_said(tmp_path: Path) -> None:
    for n, iterations in enumerate([100, 100, 150]):
        extra = f"iterations: {iterations}\n"
        pipo = "default" if n else "none"
        write(tmp_path / str(n), rows(n > 0), config(pipo, 1, extra))
    names = [each.name for each in find_groups([tmp_path])]
    assert names == ["pipo=none", "pipo=default", "pipo=default, iterations=150"]


def test_seeds_alone_are_named_by_their_folder(tmp_path: Path) -> None:
    for seed in (1, 2):
        write(tmp_path / "sweep" / str(seed), rows(False), config("none", seed))
    (found,) = find_groups([tmp_path / "sweep"])
    assert found.label == "sweep (2 runs)"


def test_folders_that_cannot_be_grouped_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a", rows(False), config("none", 1))
    write(tmp_path / "b", rows(False), config("none", 1))
    write(tmp_path / "c", rows(False))
    write(tmp_path / "d", rows(False), "model: x\n")
    (tmp_path / "empty" / "begun").mkdir(parents=True)
    (tmp_path / "empty" / "begun" / METRICS_FILE).write_text('{"iteration": 0, "tra')
    for folders, message in (
        (["a", "b"], "b: the same configuration and seed 1 as .*a; leave one out"),
        (["a", "c"], "c: holds no config.yaml.*--group NAME="),
        (["a", "d"], "has no seed"),
        (["a", "empty"], r"empty: this folder holds no metrics\.jsonl"),
        (["nowhere"], "nowhere: there is no such folder"),
        ([f"a/{METRICS_FILE}"], r"metrics\.jsonl: this is a file; give the folder of a run"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_groups([tmp_path / folder for folder in folders])
    with pytest.raises(ConfigError, match="a: this run is named twice"):
        read_group("g", [tmp_path / "a", tmp_path / "b" / ".." / "a"])
    assert len(read_group("by hand", [tmp_path / "a", tmp_path / "c"]).runs) == 2


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path / "runs" / name, rows(pipo=False), config("none", seed))
    a, b = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    main([str(a)])
    assert (a / "curves.png").is_file()
    main([str(tmp_path / "runs")])
    assert (tmp_path / "runs" / "curves.png").is_file()
    main(["--group", f"x={a},{b}", "--group", f"y={b}", "--out", str(tmp_path / "new" / "xy.png")])
    assert (tmp_path / "new" / "xy.png").is_file()
    capsys.readouterr()
    out = ["--out", str(tmp_path / "c.png")]
    (tmp_path / "folder.png").mkdir()
    for arguments, message in (
        ([str(a), str(b)], "--out is needed"),
        ([], "give folders of runs"),
        (["--theory", str(a), *out], "give folders of runs"),
        ([str(tmp_path / "gone")], "gone: there is no such folder"),
        (["--group", "x", *out], "--group x: write NAME=FOLDER"),
        (["--group", "x=a,", *out], "--group x=a,: write NAME=FOLDER"),
        (["--group", "x=/gone=1", *out], "/gone=1: there is no such folder"),
        ([str(a), "--out", "c.xyz"], "c.xyz: the name has to end in .png, .pdf, .svg"),
        ([str(a), "--out", str(tmp_path / "folder.png")], "folder.png: is a folder"),
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_a_group_may_be_named_again_and_its_folders_hold_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "0-pipo=none,seed=1", rows(pipo=False))
    write(tmp_path / "b", rows(pipo=False))
    monkeypatch.chdir(tmp_path)
    named = ["lambda=0.1=0-pipo=none,seed=1", "y=b", "lambda=0.1=b"]
    first, second = _groups([], named)
    assert (first.name, [run.name for run in first.runs]) == ("lambda=0.1", ["0-pipo=none,seed=1", "b"])
    assert second.label == "y"


def test_the_theory_has_two_panels_and_says_what_is_bounded(tmp_path: Path) -> None:
    figure = draw_theory()
    assert titles(figure) == ["Groups with both outcomes", "All groups (the others teach nothing)"]
    # Left: eta for two group sizes, and the two factors that are the same for each; right: three for each.
    assert [len(axis.lines) for axis in figure.axes] == [4, 6]
    p = np.array([1e-6, 0.5])
    mixed, every = (factors(p, 8, mixed_only=m) for m in (True, False))
    # The limits of the documentation: sqrt(7)/8/p, 1/(2p); C/2 with C = 1; sqrt(7), G/2 and nothing.
    assert mixed["group"][0] * 1e-6 == pytest.approx(0.330719, abs=1e-5)
    assert mixed["batch"][0] * 1e-6 == pytest.approx(0.5, abs=1e-5)
    assert mixed["own"].tolist() == pytest.approx([0.5, 1.0], abs=1e-5)
    assert every["group"][0] == pytest.approx(math.sqrt(7), abs=1e-4)
    assert every["batch"][0] == pytest.approx(4.0, abs=1e-4)
    assert every["own"][0] == pytest.approx(0.0, abs=1e-4)
    main(["--theory", "--out", str(tmp_path / "theory.png")])
    assert (tmp_path / "theory.png").stat().st_size > 10_000


def test_smoothing_cuts_the_window_at_the_ends_and_leaves_gaps_out() -> None:
    # (1+2)/2, (1+2+6)/3, (2+6+4)/3, (6+4)/2
    assert smooth(np.array([1.0, 2.0, 6.0, 4.0]), 3).tolist() == [1.5, 3.0, 4.0, 5.0]
    assert smooth(np.array([1.0, 2.0]), 1).tolist() == [1.0, 2.0]
    # 1, (1+5)/2, 5; the last window holds nothing.
    gaps = smooth(np.array([1.0, math.nan, 5.0, math.nan, math.nan]), 3)
    assert gaps[:4].tolist() == [1.0, 3.0, 5.0, 5.0]
    assert math.isnan(gaps[4])


def test_a_resumed_run_counts_the_later_line(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    lines = [(0, 0.1), (1, 0.2), (2, 0.9), (2, 0.3), (3, math.nan)]
    path.write_text("".join(json.dumps({"iteration": i, "train/reward": r}) + "\n" for i, r in lines))
    iterations, values = read_run("run", path).series("train/reward")
    assert iterations.tolist() == [0, 1, 2]  # not a number is not drawn
    assert values.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("line", ["{", '{"train/reward": 1.0}', "[1]"])
def test_a_broken_log_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / METRICS_FILE
    path.write_text('{"iteration": 0}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        read_run("run", path)
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2"):
        read_group("g", [tmp_path])
