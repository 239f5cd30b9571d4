"""Studies: plans are checked, statistics are those of the definitions, and runs are not made twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipo.errors import ConfigError
from pipo.evaluation.over_seeds import mean
from pipo.evaluation.statistics import sign_flip_p
from pipo.run_log import Run
from pipo.study import runner
from pipo.study.cost import cost_lines, cost_markdown, measure_cost, middle_seconds
from pipo.study.plan import StudyPlan, known_studies, load_plan
from pipo.study.report import write_report
from pipo.study.stability import stability_lines, stability_markdown
from pipo.study.table import SEED, SIGN_PATTERNS, compare, lines, markdown, read_arm

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
    assert got.half_width == pytest.approx(T2 / np.sqrt(3), rel=1e-12)
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
    for arm in plan.arms.values():
        cfg = compose_config(*plan.common, *arm.overrides, "output_dir=x")
        assert cfg.iterations >= 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1]}, "at least two"),
        ({"seeds": [1, 1]}, "at least two"),
        ({"figure": "pie"}, "figure"),
        ({"figure": "stability"}, "arms.none: a stability study needs x and series"),
        ({"figure": "cost", "arms": {"a": {"label": "a", "overrides": []}}}, "cost needs arms with against"),
        ({"colour": "red"}, "colour"),
        ({"arms": {"a": {"label": "a", "overrides": [], "against": ["b"]}}}, "no arm 'b'"),
    ],
)
def test_a_bad_plan_is_refused_by_name(tmp_path, change, message):
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps({**PLAN, **change}))
    with pytest.raises(ConfigError, match=message):
        load_plan(str(file))


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
    return plan, tmp_path, {name: read_arm(plan, name, plan.seeds, tmp_path) for name in plan.arms}


def test_lines_and_pairs(results):
    plan, _, arms = results
    table = lines(plan, arms)
    assert table[1]["pass@1"] == pytest.approx(0.7)
    assert table[1]["sampled_responses"] == 4 * 128
    assert (table[1]["applied"], table[1]["mean_absolute_coefficient"]) == (0.5, 0.5)
    assert table[1]["mean_coefficient"] == 0.0
    assert table[0]["seconds"] == 2.0
    (pair,) = compare(plan, arms)
    # Differences .1, .2, .3: mean .2, standard deviation .1.
    assert pair.difference.value == pytest.approx(0.2)
    assert pair.difference.half_width == pytest.approx(0.1 * T2 / np.sqrt(3), rel=1e-9)
    assert pair.p_value == 0.25
    text = markdown(plan, table, [pair])
    assert "| base + PIPO minus base | +20.0 ± 24.8 | 0.250 |" in text


@pytest.mark.parametrize("figure", ["curves", "pairs", "cost"])
def test_table_and_figure_are_written(results, figure):
    plan, out, arms = results
    written = write_report(plan.model_copy(update={"figure": figure}), arms, out, plan.seeds)
    assert [path.name for path in written] == ["table.md", "table.csv", "figure.png"]
    assert written[2].stat().st_size > 10_000
    assert len(written[1].read_text().splitlines()) == 3


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
    arms = {name: read_arm(plan, name, plan.seeds, out) for name in plan.arms}
    (pair,) = measure_cost(plan, arms)
    # Iterations 2 and 3: 2.5 seconds against 2.
    assert pair.extra.value == pytest.approx(0.25)
    assert pair.extra.half_width == pytest.approx(0.0, abs=1e-12)
    assert pair.arm_seconds[0] == {"retrospective": 0.5, "update": 1.0, "other": 1.0}
    table = cost_lines(plan, arms, [pair])
    assert [line["seconds"] for line in table] == [2.0, 2.5]
    assert "| 2.500 ± 0.000 | 0.000 | 0.000 | 0.000 | 0.500 | 0.000 | 1.000 | 1.000 | +25% ± 0% | 0.50 |" in (
        cost_markdown(plan, table)
    )
    arms["pipo"] = read_arm(plan, "none", plan.seeds, out)
    with pytest.raises(ConfigError, match="no retrospective update was made"):
        measure_cost(plan, arms)


def test_stability_looks_at_the_best_point_and_the_largest_norm(tmp_path):
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
            rows[1] |= {"pipo/grad_norm": 7.0, "policy/skipped_steps": 1.0} if name == "pipo" else {}
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = {name: read_arm(plan, name, plan.seeds, tmp_path) for name in plan.arms}
    none, pipo = stability_lines(plan, results)
    assert none["pass@1"] == pytest.approx(0.6)
    assert none["pass@1_std_over_seeds"] == pytest.approx(0.1)
    assert none["pass@1_worst_seed"] == 0.5
    assert (none["best_pass@1"], none["lost"]) == (pytest.approx(0.9), pytest.approx(0.3))
    # Seeds 1, 2, 3 have norms of at most 1, 2 and 3; the retrospective update's 7 counts as well.
    assert (none["largest_grad_norm"], none["mean_largest_grad_norm"]) == (3.0, 2.0)
    assert (pipo["largest_grad_norm"], pipo["skipped_steps"]) == (7.0, 3.0)
    text = stability_markdown(plan, [none, pipo], compare(plan, results))
    assert "| none | 60.0 ± 24.8 | 10.0 | 50.0 | 90.0 ± 0.0 | 30.0 ± 0.0 | 3.00 | 0 | 0.00 |  |" in text
    assert "| pipo minus none | +0.0 ± 0.0 | 1.000 |" in text
    assert write_report(plan, results, tmp_path, plan.seeds)[2].stat().st_size > 10_000


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
    with pytest.raises(ConfigError, match=r"none-seed1 ended with status 1; see .*none-seed1\.log; the same"):
        runner.run_study(plan, [1, 2], tmp_path, jobs=1)
    assert len(spy.commands) == 4
    # What is refused once would be refused again.
    spy = Spy({"none-seed1": 2})
    with pytest.raises(ConfigError, match="none-seed1 ended with status 2"):
        runner.run_study(plan, [1, 2], tmp_path, jobs=1)
    assert spy.stopped


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
