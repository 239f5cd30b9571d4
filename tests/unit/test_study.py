"""Studies: plans are checked, statistics are those of the definitions, and runs are not made twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipo.errors import ConfigError
from pipo.evaluation.statistics import sign_flip_p
from pipo.study import runner
from pipo.study.figures import draw_study
from pipo.study.plan import StudyPlan, known_studies, load_plan
from pipo.study.table import SEED, SIGN_PATTERNS, compare, lines, markdown, mean, read_arm

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


def test_the_figure_is_written(results):
    plan, out, arms = results
    (path,) = draw_study(plan, arms, out, plan.seeds)
    assert path.stat().st_size > 10_000


class Spy:
    def __init__(self, code: int = 0):
        self.commands: list[list[str]] = []
        self.places: list[dict[str, str]] = []
        self.code = code

    def call(self, command, log, place):
        self.commands.append(command[2:])
        self.places.append(place)
        return self.code


def test_finished_runs_stay_and_interrupted_ones_go_on(results):
    plan, out, _ = results
    spy = Spy()
    runner._run(plan, "pipo", 1, out, spy)
    assert spy.commands == []
    folder = runner.run_folder(out, "pipo", 2)
    (folder / "summary.json").unlink()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "iteration_000001.ckpt").touch()
    runner._run(plan, "pipo", 2, out, spy)
    assert spy.commands.pop() == [f"resume={folder}"]
    # In W&B: the study and the arm.
    assert spy.places == [{"PIPO_SWEEP_GROUP": out.name, "PIPO_JOB_TYPE": "pipo"}]
    folder = runner.run_folder(out, "pipo", 3)
    (folder / "summary.json").unlink()
    runner._run(plan, "pipo", 3, out, spy)
    assert spy.commands.pop() == ["algo=grpo", "seed=3", f"output_dir={folder}"]
    changed = plan.model_copy(update={"common": ("algo=ppo",)})
    with pytest.raises(ConfigError, match="other overrides"):
        runner._run(changed, "pipo", 3, out, spy)
    with pytest.raises(ConfigError, match=r"none-seed9 ended with status 2; see .*none-seed9\.log"):
        runner._run(plan, "none", 9, out, Spy(code=2))
