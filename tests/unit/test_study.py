"""Studies: plans are checked, statistics are those of the definitions, and runs are not made twice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipo.analysis.run_metrics import Run
from pipo.analysis.study import runner
from pipo.analysis.study.__main__ import main
from pipo.analysis.study.cost import cost_lines, cost_markdown, measure_cost, middle_seconds
from pipo.analysis.study.outcome import write_outcome
from pipo.analysis.study.plan import StudyPlan, known_studies, load_plan
from pipo.analysis.study.stability import stability_lines, stability_markdown
from pipo.analysis.study.table import (
    SEED,
    SIGN_PATTERNS,
    accuracy_lines,
    accuracy_markdown,
    compare_arms,
    read_arm,
    smallest_p,
)
from pipo.errors import ConfigError
from pipo.evaluation.over_seeds import mean
from pipo.evaluation.statistics import sign_flip_p
from pipo.runs.run_log import DIVERGED_FILE, PROBE_FILE

# The 97.5 % quantile of Student's t with 2 degrees of freedom, which has a closed form.
T2 = 0.95 * np.sqrt(2 / (1 - 0.95**2))

PLAN = {
    "question": "Which?",
    "figure": "curves",
    "common": ["algo=grpo"],
    "seeds": [1, 2, 3],
    "arms": {
        "none": {"label": "base", "overrides": ["pipo=none"]},
        "pipo": {"label": "base + PIPO", "overrides": [], "against": ["none"]},
    },
}


def test_t_interval_of_three_values():
    # Mean 2, standard deviation 1, standard error 1 / sqrt(3).
    got = mean(np.array([1.0, 2.0, 3.0]))
    assert got.value == 2.0
    assert got.half_width == pytest.approx(T2 / np.sqrt(3), rel=1e-14)
    with pytest.raises(ValueError, match="two seeds"):
        mean(np.array([1.0]))


def test_sign_flips_by_hand():
    # All positive: only +++ and --- reach the sum, 2 of 8.
    assert sign_flip_p(np.array([1.0, 2.0, 3.0]), SIGN_PATTERNS, SEED) == 0.25
    # 1 + 2 - 3 = 0: every pattern is at least as far from zero.
    assert sign_flip_p(np.array([1.0, 2.0, -3.0]), SIGN_PATTERNS, SEED) == 1.0
    # |sum| = 4 of {6, 4, 2, 0} twice each: 4 of 8.
    assert sign_flip_p(np.array([-1.0, 2.0, 3.0]), SIGN_PATTERNS, SEED) == 0.5


@pytest.mark.parametrize("name", known_studies())
def test_every_study_composes(name, compose_config):
    plan = load_plan(name)
    seen = set()
    for arm in plan.arms.values():
        # Arms that differ in numbers alone are composed alike, and composing takes a third of a second.
        shape = frozenset(re.sub(r"=[-+.\de]+$", "=", each) for each in arm.overrides)
        if shape not in seen:
            seen.add(shape)
            cfg = compose_config(*plan.common, *arm.overrides, "output_dir=x")
            assert cfg.iterations >= 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1]}, "at least two"),
        ({"seeds": [1, 1]}, "at least two"),
        ({"figure": "pie"}, "figure"),
        ({"figure": "stability"}, "arms.none: a stability study needs x and series"),
        ({"figure": "cost", "arms": {"a": {"label": "a", "overrides": []}}}, "cost needs arms with against"),
        ({"colour": "red"}, "colour"),
        ({"seeds": [1, -2]}, "greater than or equal to 0"),
        ({"arms": {}}, "arms: .*at least 1 item"),
        ({"arms": {"a/b": {"label": "a", "overrides": []}}}, "arms.a/b.*pattern"),
        ({"arms": {"a": {"label": "a", "overrides": [], "against": ["b"]}}}, "no arm 'b'"),
    ],
)
def test_a_bad_plan_is_refused_by_name(tmp_path, change, message):
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps({**PLAN, **change}))
    with pytest.raises(ConfigError, match=message):
        load_plan(str(file))


def test_a_file_that_is_not_yaml_is_one_line(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("arms: {a: [1,\nseeds: 3")
    with pytest.raises(ConfigError, match=r"is not YAML: .*plan\.yaml\", line 2") as caught:
        load_plan(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "1", "-2"], "--seeds: a seed is not negative, got -2"),
        (["--seeds", "1", "1"], "--seeds: at least two different ones"),
        (["--jobs", "0"], "--jobs: at least 1, got 0"),
        (["--jobs", "-3"], "--jobs: at least 1, got -3"),
    ],
)
def test_numbers_on_the_command_line_are_refused_at_once(options, message, monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        main(["headline", *options])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_an_unknown_study_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"'horoscope' does not exist; there are .*headline.*window"):
        load_plan("horoscope")


def test_some_arms_of_a_study():
    plan = StudyPlan.model_validate(PLAN)
    assert list(plan.only(["pipo"]).arms) == ["pipo"]
    assert plan.only(["pipo"]).arms["pipo"].against == ()
    assert plan.only(["pipo", "none"]).arms["pipo"].against == ("none",)
    with pytest.raises(ConfigError, match="no arm 'pip'; this study has none, pipo"):
        plan.only(["pip"])
    cost = StudyPlan.model_validate({**PLAN, "figure": "cost"})
    with pytest.raises(ConfigError, match="--arms pipo: name both arms of a pair"):
        cost.only(["pipo"])


def finished_run(folder: Path, after: float, coefficient: float | None) -> None:
    folder.mkdir(parents=True)
    summary = {"before": {"pass@1": 0.2}, "after": {"pass@1": after}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("recipe: {responses: 128}\n")
    rows = []
    for i in range(4):
        row = {"iteration": i, "time/iteration": 0.5, "train/reward": 0.3}
        if i % 2:
            row["eval/pass@1"] = 0.2 + (after - 0.2) * i / 3
        if coefficient is not None:
            row |= {"pipo/applied": float(i > 1)}
            row |= {"pipo/coefficient": coefficient * (-1) ** i} if i > 1 else {}
        rows.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")


@pytest.fixture
def results(tmp_path):
    plan = StudyPlan.model_validate(PLAN)
    for seed, (base, other) in enumerate([(0.5, 0.6), (0.4, 0.6), (0.6, 0.9)], start=1):
        finished_run(runner.run_folder(tmp_path, "none", seed), base, None)
        finished_run(runner.run_folder(tmp_path, "pipo", seed), other, 0.5)
    return plan, tmp_path, {name: read_arm(name, plan.seeds, tmp_path) for name in plan.arms}


def test_lines_and_pairs(results):
    plan, _, arms = results
    table = accuracy_lines(plan, arms)
    assert table[1]["pass@1"] == pytest.approx(0.7)
    assert table[1]["sampled_responses"] == 4 * 128
    assert (table[1]["applied"], table[1]["mean_absolute_coefficient"]) == (0.5, 0.5)
    assert table[1]["mean_coefficient"] == 0.0
    assert table[0]["seconds"] == 2.0
    (pair,) = compare_arms(plan, arms)
    # Differences .1, .2, .3: mean .2, standard deviation .1.
    assert pair.difference.value == pytest.approx(0.2)
    assert pair.difference.half_width == pytest.approx(0.1 * T2 / np.sqrt(3), rel=1e-9)
    assert pair.p_value == 0.25
    text = accuracy_markdown(plan, table, [pair])
    assert "| base + PIPO minus base | +20.0 ± 24.8 | 3 | 0.250 | 0.250 |" in text
    assert "Smallest possible p: 0.25 with 3 pairs;" in text


def test_p_is_adjusted_for_the_comparisons_of_the_study(results):
    plan, _, arms = results
    arms["other"] = replace(arms["pipo"], name="other", after=arms["none"].after + np.array([0.1, 0.1, -0.1]))
    more = {name: arm.model_dump() for name, arm in plan.arms.items()}
    more["other"] = {"label": "a | b", "overrides": [], "against": ["none"]}
    plan = StudyPlan.model_validate({**plan.model_dump(), "arms": more})
    found = compare_arms(plan, arms)
    # Sign flips: 2 of 8, and |sum| = .1 of {.3, .1, .1, .1}: 8 of 8. Holm: twice the smaller, the larger.
    assert [(each.p_value, each.adjusted) for each in found] == [(0.25, 0.5), (1.0, 1.0)]
    text = accuracy_markdown(plan, accuracy_lines(plan, arms), found)
    assert "for all differences above (2) and can be 0.5 at best" in text
    assert r"| a \| b | 20.0 |" in text
    assert r"| a \| b minus base |" in text


def test_the_smallest_p():
    assert smallest_p(3) == 0.25
    # All differences on one side reach it, counted (2 of 256) and drawn (only the pattern that was found).
    assert sign_flip_p(np.ones(8), SIGN_PATTERNS, SEED) == smallest_p(8) == 2 / 256
    assert sign_flip_p(np.arange(1.0, 41.0), SIGN_PATTERNS, SEED) == smallest_p(40) == 1 / 65537


@pytest.mark.parametrize("figure", ["curves", "pairs", "cost"])
def test_table_and_figure_are_written(results, figure):
    plan, out, arms = results
    written = write_outcome(plan.model_copy(update={"figure": figure}), arms, out, "mine")
    assert [path.name for path in written] == ["mine.md", "mine.csv", "mine.png"]
    assert written[2].stat().st_size > 10_000
    assert len(written[1].read_text().splitlines()) == 3


@pytest.mark.parametrize("figure", ["curves", "pairs", "cost"])
def test_what_failed_is_left_out_and_named(results, figure):
    plan, out, _ = results
    plan = plan.model_copy(update={"figure": figure})
    (runner.run_folder(out, "none", 1) / "summary.json").unlink()
    arms = {name: read_arm(name, plan.seeds, out) for name in plan.arms}
    assert (arms["none"].seeds, arms["pipo"].seeds) == ((2, 3), (1, 2, 3))
    # Of .4, .6 and .6, .9: differences .2 and .3.
    (pair,) = compare_arms(plan, arms)
    assert (pair.difference.seeds, pair.difference.value) == (2, pytest.approx(0.25))
    failure = runner.Failure(run="none-seed1", code=1, log=out / "none-seed1.log")
    text = write_outcome(plan, arms, out, "mine", [failure])[0].read_text()
    assert text.endswith("\nMissing: none-seed1 (status 1).\n")
    # One run has no interval: its arm goes, and what was compared with it stays by itself.
    (runner.run_folder(out, "none", 2) / "summary.json").unlink()
    arms = {name: read_arm(name, plan.seeds, out) for name in plan.arms}
    if figure == "curves":
        assert "| base |" not in write_outcome(plan, arms, out, "mine")[0].read_text()
    else:
        with pytest.raises(ConfigError, match="no two finished runs of an arm and of what it is compared"):
            write_outcome(plan, arms, out, "mine")


def test_an_agreement_study_shows_chance_and_names_a_run_that_is_too_short(tmp_path):
    arm = {"pipo": {"label": "PIPO", "overrides": []}}
    plan = StudyPlan.model_validate({**PLAN, "figure": "agreement", "arms": arm})
    generator = np.random.default_rng(0)
    for seed in plan.seeds:
        finished_run(runner.run_folder(tmp_path, "pipo", seed), 0.5, 0.5)
        # Exact in binary, always rising: the change has one sign.
        level = np.cumsum(generator.integers(1, 3, size=20)) / 64
        rewards = level[:, None] + generator.integers(2, size=6) / 4
        rows = [
            {"iteration": i, "progress": None if i < 2 else i / 8 - 0.25, "evidence": None, "rewards": row}
            for i, row in enumerate(rewards.tolist())
        ]
        path = runner.run_folder(tmp_path, "pipo", seed) / PROBE_FILE
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arms = {"pipo": read_arm("pipo", plan.seeds, tmp_path)}
    text = write_outcome(plan, arms, tmp_path, "mine")[0].read_text()
    assert "| 1 | last 1 | 17 | 1 | 1.00 | 1.00 | 1.00 [1.00, 1.00] | 1.00 | +0.00 [+0.00, +0.00] |" in text
    assert "| mean of 3 seeds | last 1 | | 3 in all | | | 1.00 ± 0.00 | 1.00 ± 0.00 | +0.00 ± 0.00 |" in text
    assert "has one sign only, so signs say nothing: seed 1 (last 1), seed 2 (last 1)" in text
    path = runner.run_folder(tmp_path, "pipo", 2) / PROBE_FILE
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    with pytest.raises(ConfigError, match=r"pipo-seed2/probe\.jsonl: too short .* only 2 iterations"):
        write_outcome(plan, arms, tmp_path, "mine")


def test_the_middle_half_leaves_slow_iterations_out():
    seconds = [1.0, 2.0, 3.0, 4.0, 100.0, 50.0]
    rows = {i: {"time/iteration": s, "time/update": s / 2} for i, s in enumerate(seconds)}
    # Of 1, 2, 3, 4 (iterations 0 to 3) the middle half is 2 and 3.
    found = middle_seconds(Run(name="run", rows=rows), {0, 1, 2, 3})
    assert found == {"update": 1.25, "other": 1.25}
    with pytest.raises(ConfigError, match="run: time/iteration is missing"):
        middle_seconds(Run(name="run", rows={0: {}}), {0})


def test_cost_compares_the_same_iterations_of_a_pair(results):
    plan, out, _ = results
    for arm, add in (("none", 0.0), ("pipo", 0.5)):
        for seed in plan.seeds:
            folder = runner.run_folder(out, arm, seed)
            rows = []
            for i in range(4):
                applied = arm == "pipo" and i > 1
                row = {"iteration": i, "time/iteration": 1.0 + (i > 1) + add * applied, "time/update": 1.0}
                row |= {"pipo/applied": float(applied)} if arm == "pipo" else {}
                row |= {"time/retrospective": 0.5} if applied else {}
                rows.append(json.dumps(row))
            (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    arms = {name: read_arm(name, plan.seeds, out) for name in plan.arms}
    (pair,) = measure_cost(plan, arms)
    # Iterations 2 and 3: 2.5 seconds against 2.
    assert pair.extra.value == pytest.approx(0.25)
    assert pair.extra.half_width == pytest.approx(0.0, abs=1e-12)
    assert pair.arm_seconds[0] == {"retrospective": 0.5, "update": 1.0, "other": 1.0}
    table = cost_lines(plan, arms, [pair])
    assert [line["seconds"] for line in table] == [2.0, 2.5]
    phases = "0.000 | 0.000 | 0.000 | 0.000 | 0.000 | 0.500 | 0.000 | 1.000 | 1.000"
    assert f"| 2.500 ± 0.000 | {phases} | +25% ± 0% | 0.50 |" in cost_markdown(plan, table)
    arms["pipo"] = read_arm("none", plan.seeds, out)
    with pytest.raises(ConfigError, match="no retrospective update was made"):
        measure_cost(plan, arms)


def stability_study(tmp_path: Path) -> StudyPlan:
    """Two arms of three runs with what their table has to say."""
    arms = {
        name: {"label": name, "overrides": [], "series": name, "x": 1, "against": against}
        for name, against in (("none", []), ("pipo", ["none"]))
    }
    plan = StudyPlan.model_validate({**PLAN, "figure": "stability", "arms": arms, "axis": "rate"})
    for name in arms:
        for seed in plan.seeds:
            folder = runner.run_folder(tmp_path, name, seed)
            folder.mkdir(parents=True)
            after = 0.4 + 0.1 * seed
            summary = {"before": {"pass@1": 0.2}, "after": {"pass@1": after}}
            (folder / "summary.json").write_text(json.dumps(summary))
            (folder / "config.yaml").write_text("recipe: {responses: 8}\n")
            rows = [
                {"iteration": 0, "time/iteration": 1.0, "policy/grad_norm": 0.5, "eval/pass@1": 0.9},
                {"iteration": 1, "time/iteration": 1.0, "policy/grad_norm": 1.0 * seed, "eval/pass@1": 0.6},
            ]
            rows[1] |= {"pipo/grad_norm": 7.0, "policy/skipped_steps": 0.0} if name == "pipo" else {}
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = {name: read_arm(name, plan.seeds, tmp_path) for name in plan.arms}
    none, pipo = stability_lines(plan, results)
    assert none["pass@1"] == pytest.approx(0.6)
    assert none["pass@1_std_over_seeds"] == pytest.approx(0.1)
    assert none["pass@1_worst_seed"] == 0.5
    assert (none["best_pass@1"], none["lost"]) == (pytest.approx(0.9), pytest.approx(0.3))
    # Seeds 1, 2, 3 have norms of at most 1, 2 and 3; the retrospective update's 7 counts as well.
    assert (none["largest_grad_norm"], none["mean_largest_grad_norm"]) == (3.0, 2.0)
    assert (pipo["largest_grad_norm"], pipo["skipped_steps"]) == (7.0, 0.0)
    text = stability_markdown(plan, [none, pipo], compare_arms(plan, results))
    assert "| none | 0/3 | 60.0 ± 24.8 | 10.0 | 50.0 | 90.0 ± 0.0 | 30.0 ± 0.0 | 3.00 | 0 | 0.00 |  |" in text
    assert "| pipo minus none | +0.0 ± 0.0 | 3 | 1.000 | 1.000 |" in text
    assert write_outcome(plan, results, tmp_path, "mine")[2].stat().st_size > 10_000
    return plan


def test_stability_looks_at_the_best_point_and_the_largest_norm(tmp_path):
    stability_study(tmp_path)


def test_a_run_that_diverged_is_an_outcome_of_a_stability_study(tmp_path, monkeypatch):
    plan = stability_study(tmp_path)
    steps = runner.run_folder(tmp_path, "pipo", 2) / "metrics.jsonl"
    rows = [json.loads(line) for line in steps.read_text().splitlines()]
    rows[1] |= {"policy/skipped_steps": 1.0}
    steps.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for arm, seeds in (("pipo", (3,)), ("none", (1, 2, 3))):
        for seed in seeds:
            folder = runner.run_folder(tmp_path, arm, seed)
            (folder / "summary.json").unlink()
            (folder / DIVERGED_FILE).write_text("3 optimiser steps in a row\n")
    (runner.run_folder(tmp_path, "none", 1) / "metrics.jsonl").unlink()  # in its first iteration
    spy = Spy()
    monkeypatch.setattr(runner, "_Children", lambda: spy)
    assert runner.run_study(plan, plan.seeds, tmp_path, jobs=1) == []
    assert spy.commands == []  # it would diverge again
    results = {name: read_arm(name, plan.seeds, tmp_path) for name in plan.arms}
    none, pipo = stability_lines(plan, results)
    assert (none["ended_early"], none["seeds"], none["pass@1"]) == (3, 0, None)
    assert (pipo["ended_early"], pipo["seeds"], pipo["pass@1"]) == (1, 2, pytest.approx(0.55))
    assert (pipo["largest_grad_norm"], pipo["skipped_steps"]) == (np.inf, 1.0)
    text = write_outcome(plan, results, tmp_path, "mine")[0].read_text()
    assert "| none | 3/3 |  |  |  |  |  | inf | 0 | 0.00 |  |" in text
    assert "| pipo | 1/3 | 55.0 ± " in text
    assert "minus" not in text  # no pair is left
    curve = runner.run_folder(tmp_path, "pipo", 1) / "metrics.jsonl"
    curve.write_text('{"iteration": 0, "policy/grad_norm": 1.0, "time/iteration": 1.0}\n')
    results["pipo"] = read_arm("pipo", plan.seeds, tmp_path)
    with pytest.raises(ConfigError, match="pipo-seed1: no point of the held-out curve"):
        write_outcome(plan, results, tmp_path, "mine")


class Spy:
    """In place of training programs; by default they end well at once."""

    def __init__(self, codes: dict[str, int] | None = None):
        self.commands: list[list[str]] = []
        self.places: list[dict[str, str]] = []
        self.codes = codes or {}
        self.stopped = False

    def call(self, command, log, place):
        self.commands.append(command[2:])
        self.places.append(place)
        return next((code for part, code in self.codes.items() if part in command[-1]), 0)

    def stop(self):
        self.stopped = True


def test_finished_runs_stay_and_interrupted_ones_go_on(results, monkeypatch, capsys):
    plan, out, _ = results
    spy = Spy()
    monkeypatch.setattr(runner, "_Children", lambda: spy)
    runner.run_study(plan, plan.seeds, out, jobs=1)
    assert spy.commands == []
    assert "6 runs, 6 of them there already; 1 at a time" in capsys.readouterr().out
    interrupted = runner.run_folder(out, "pipo", 2)
    (interrupted / "summary.json").unlink()
    (interrupted / "checkpoints").mkdir()
    (interrupted / "checkpoints" / "iteration_000001.ckpt").touch()
    early = runner.run_folder(out, "pipo", 3)
    (early / "summary.json").unlink()
    runner.run_study(plan, plan.seeds, out, jobs=1)
    assert spy.commands == [
        [f"resume={interrupted}"],
        ["algo=grpo", "seed=3", f"output_dir={early}"],
    ]
    assert not early.exists()
    # In W&B: the study and the arm.
    assert spy.places == [{"PIPO_SWEEP_GROUP": out.name, "PIPO_JOB_TYPE": "pipo"}] * 2
    changed = plan.model_copy(update={"common": ("algo=ppo",)})
    with pytest.raises(ConfigError, match="other overrides"):
        runner.run_study(changed, plan.seeds, out, jobs=1)
    assert len(spy.commands) == 2  # before any run


def test_a_failed_run_does_not_keep_the_others_from_running(tmp_path, monkeypatch):
    plan = StudyPlan.model_validate(PLAN)
    spy = Spy({"none-seed1": 1})
    monkeypatch.setattr(runner, "_Children", lambda: spy)
    (failure,) = runner.run_study(plan, [1, 2], tmp_path, jobs=1)
    assert str(failure) == f"none-seed1 ended with status 1; see {tmp_path}/runs/none-seed1.log"
    assert len(spy.commands) == 4
    # What is refused once would be refused again.
    spy = Spy({"none-seed1": 2})
    with pytest.raises(ConfigError, match="none-seed1 ended with status 2"):
        runner.run_study(plan, [1, 2], tmp_path, jobs=1)
    assert spy.stopped


def test_what_is_complete_is_reported_and_the_status_is_1(results, tmp_path, monkeypatch, capsys):
    _, out, _ = results
    (runner.run_folder(out, "none", 1) / "summary.json").unlink()
    monkeypatch.setattr(runner, "_Children", lambda: Spy({"none-seed1": 1}))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(PLAN))
    with pytest.raises(SystemExit) as end:
        main([str(file), "--out", str(out), "--jobs", "1"])
    assert end.value.code == 1
    said = capsys.readouterr()
    assert "Missing: none-seed1 (status 1)." in said.out
    assert said.err.startswith("error: none-seed1 ended with status 1; see ")
    assert (out / "mine.md").read_text() in said.out


def test_what_compares_seconds_runs_alone_and_takes_turns(tmp_path, monkeypatch, capsys):
    plan = StudyPlan.model_validate({**PLAN, "alone": True})
    assert runner.run_order(plan, [1, 2, 3]) == [
        ("none", 1),
        ("pipo", 1),
        ("pipo", 2),
        ("none", 2),
        ("none", 3),
        ("pipo", 3),
    ]
    monkeypatch.setattr(runner, "_Children", Spy)
    runner.run_study(plan, [1, 2], tmp_path, jobs=8)
    assert "1 at a time (this study compares seconds)" in capsys.readouterr().out


def test_a_study_into_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        main(["seeds", "--out", str(tmp_path / "file/below")])
    said = capsys.readouterr().err
    assert (end.value.code, said.count("\n")) == (2, 1)
    assert "file/below: no folder to write to" in said
