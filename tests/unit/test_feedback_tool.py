"""The offline feedback tool: its model against simulation, its readers' forms, its table, JSON and figure.

Simulated curves have a known J and known noise, so that the realised share of right signs can be counted; the
model's probability must be that share. Written inputs of other libraries are in test_feedback_tool_forms.py.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from pipo.analysis.feedback import model
from pipo.analysis.feedback.__main__ import main
from pipo.analysis.feedback.curve import Curve, check_length, from_means, from_prompts
from pipo.analysis.feedback.model import (
    MIN_HISTORY_STD,
    changes,
    coefficient,
    curve_variance,
    progress,
    prompts_factor,
    share_right,
    study,
)
from pipo.analysis.feedback.smoothing import choose_stiffness, leverages, smooth
from pipo.errors import ConfigError
from pipo.evaluation.statistics import Floats
from pipo.functional import policy_improvement
from tests.conftest import ROOT

NORMAL = NormalDist()
K = 8
# tau / s: the noise of a mean minus that of K others.
TAU = math.sqrt(1 + 1 / K)


def simulated(level: Floats, noise: float, seed: int) -> Curve:
    means = level + noise * np.random.default_rng(seed).normal(size=len(level))
    return from_means("run", "simulated", dict(enumerate(means)))


def realised_shares(level: Floats, progress: Floats) -> tuple[float, float]:
    """Shares of right signs, counted: against the true last change, and against the true window."""
    xi = progress[K:]
    window = np.array([level[t] - level[t - K : t].mean() for t in range(K, len(level))])
    return float((xi * np.diff(level)[K - 1 :] > 0).mean()), float((xi * window > 0).mean())


def line(count: int, slope: float) -> Floats:
    return 0.2 + slope * np.arange(count)


def saturating(count: int) -> Floats:
    return 0.2 + 0.6 * (1 - np.exp(-4 * np.arange(count) / count))


def tent(count: int, periods: int) -> Floats:
    return 0.4 + 0.3 * np.abs(2 * (np.arange(count) * periods / count % 1) - 1)


# --- The published feedback -------------------------------------------------------------------------


def test_progress_of_the_papers_definition_is_that_of_the_test_vector():
    # From the definition by hand, as in docs/algorithms.md: K = 8 values before, sample deviation.
    mu = np.array([0.30, 0.32, 0.31, 0.35, 0.36, 0.34, 0.38, 0.40, 0.41, 0.39, 0.45, 0.43])
    xi = progress(mu, K)
    assert np.isnan(xi[:K]).all()
    assert xi[K:] == pytest.approx([1.87638837, 0.86731494, 2.44804504, 1.25499004], abs=1e-8)


def test_progress_and_coefficient_agree_with_those_that_training_uses():
    means = np.random.default_rng(3).uniform(size=60)
    means[20:29] = 0.5  # a window that does not vary
    xi = progress(means, 5)
    phi = coefficient(xi, 0.1)
    for t in range(5, 60):
        expected = policy_improvement.policy_improvement_feedback(means[t], means[t - 5 : t].tolist(), 0.1)
        assert np.isfinite(xi[t]) == expected.defined
        if expected.defined:
            assert xi[t] == pytest.approx(expected.progress, rel=1e-12)
            assert phi[t] == pytest.approx(expected.coefficient, rel=1e-12)
    assert np.isnan(xi[25:29]).all()
    assert MIN_HISTORY_STD == policy_improvement.MIN_HISTORY_STD


# --- Its parts --------------------------------------------------------------------------------------


def test_smoothing_solves_its_normal_equations_and_leverages_are_the_diagonal_of_the_hat():
    values = np.random.default_rng(0).normal(size=(12, 3))
    second = np.diff(np.eye(12), n=2, axis=0)
    hat = np.linalg.inv(np.eye(12) + 7.0 * second.T @ second)
    assert smooth(values, 7.0) == pytest.approx(hat @ values, abs=1e-12)
    assert leverages(12, 7.0) == pytest.approx(np.diag(hat), abs=1e-12)


def test_infinite_stiffness_is_the_line_of_least_squares():
    values = np.random.default_rng(0).normal(size=20)
    fitted = np.polynomial.Polynomial.fit(np.arange(20), values, 1)(np.arange(20))
    assert smooth(values, math.inf) == pytest.approx(fitted, abs=1e-12)
    assert leverages(20, math.inf).sum() == pytest.approx(2.0)
    # A very stiff curve is next to it, which it would not be if rounding had its way.
    assert smooth(values, 1e13) == pytest.approx(fitted, abs=1e-6)
    assert leverages(20, 1e13).sum() == pytest.approx(2.0, abs=1e-3)


def test_straight_lines_pass_through_smoothing_unchanged():
    assert smooth(line(50, 0.01), 1e4) == pytest.approx(line(50, 0.01), abs=1e-12)


def test_stiffness_leaves_a_noisy_line_straight_and_lets_a_wave_bend():
    generator = np.random.default_rng(1)
    noise = 0.03 * generator.normal(size=300)
    straight = choose_stiffness(line(300, 0.001) + noise, K)
    bent = choose_stiffness(0.5 + 0.2 * np.sin(np.arange(300) / 25) + noise, K)
    # A straight line has two parameters; a wave with four turns needs more than twice as many.
    assert leverages(300, straight).sum() < 2.5
    assert leverages(300, bent).sum() > 8


def test_changes_are_those_of_the_definition():
    level = np.random.default_rng(2).uniform(size=30)
    last, against = changes(level, K)
    assert last == pytest.approx([level[t] - level[t - 1] for t in range(K, 30)], abs=1e-12)
    assert against == pytest.approx([level[t] - level[t - K : t].mean() for t in range(K, 30)], abs=1e-12)


def test_curve_variance_is_the_noise_on_a_line_and_a_bound_on_a_walk():
    generator = np.random.default_rng(4)
    # Standard error of the estimate at 200,000 points: s^2 sqrt(2 * 35/18 / T) = 0.4 %.
    noise = 0.05 * generator.normal(size=200_000)
    assert curve_variance(line(200_000, 0.01) + noise) == pytest.approx(0.05**2, rel=0.015)
    # A random walk of step q adds q^2 / 3: its second differences have variance 2 q^2.
    walk = np.cumsum(0.03 * generator.normal(size=200_000))
    assert curve_variance(walk + noise) == pytest.approx(0.05**2 + 0.03**2 / 3, rel=0.015)


def test_prompts_needed_on_a_line_are_those_of_the_normal_quantile():
    # One signal everywhere: Phi(signal sqrt(f)) = 0.9.
    signal = np.full(10, 0.25)
    factor = prompts_factor(np.ones(10), signal)
    # 60 powers of two halved 20 times: 4e-5.
    assert factor == pytest.approx((NORMAL.inv_cdf(0.9) / 0.25) ** 2, rel=5e-5)
    assert share_right(np.ones(10), signal, factor) == pytest.approx(0.9, abs=1e-5)


def test_no_number_of_prompts_helps_where_the_window_points_the_other_way():
    signs = np.array([1.0] * 8 + [-1.0] * 2)  # right in 80 % at best
    assert math.isinf(prompts_factor(signs, np.full(10, 0.25)))


# --- The model against simulation -------------------------------------------------------------------

SHAPES = {
    # Level, noise, what the share may differ by: three standard errors of the count, and smoothing's bias.
    "slow line": (line(1500, 0.0004), 0.03, 0.012),
    "steep line": (line(1500, 0.003), 0.03, 0.012),
    "falling line": (line(1500, -0.002), 0.03, 0.012),
    "saturating": (saturating(1500), 0.02, 0.012),
    "up and down": (tent(1500, 5), 0.02, 0.015),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_probability_is_the_share_of_right_signs(shape, monkeypatch):
    monkeypatch.setattr(model, "RESAMPLES", 2)  # intervals are another test's
    level, noise, allowed = SHAPES[shape]
    estimated, counted = [], []
    for seed in range(8):
        found = study(simulated(level, noise, seed), K, 0.1)
        estimated.append((found.last.probability.value, found.against_window.probability.value))
        counted.append(realised_shares(level, found.progress))
    difference = np.mean(estimated, axis=0) - np.mean(counted, axis=0)
    assert np.abs(difference).max() < allowed


def test_after_turns_the_sign_is_right_about_the_window_and_wrong_about_the_last_change():
    found = study(simulated(tent(1500, 15), 0.004, 0), K, 0.1)
    # Nearly without noise only turns make a difference. j iterations after one, the mean of |i| over
    # i = j - 8 .. j - 1 is 3.5, 2.75, 2.25 for j = 1, 2, 3: more than j for the first two, which are wrong.
    assert found.against_window.probability.value > 0.98
    assert found.last.probability.value == pytest.approx(1 - 29 * 2 / 1492, abs=0.01)


def test_share_of_negative_progress_and_of_rises_follow_from_line_and_noise():
    level = line(4000, 0.001)
    found = study(simulated(level, 0.03, 5), K, 0.1)
    expected = NORMAL.cdf(-0.001 * (K + 1) / 2 / (0.03 * TAU))
    # Three standard errors of a share of 3,992 signs, of which neighbours are hardly related.
    assert found.negative == pytest.approx(expected, abs=0.024)
    assert found.negative_expected == pytest.approx(expected, abs=0.002)
    assert found.last.rises == found.against_window.rises == 1.0
    assert found.trend.value == pytest.approx(0.001, rel=0.02)


def test_predicted_number_of_prompts_reaches_the_goal_when_it_is_simulated():
    level = line(1000, 0.001)
    factor = study(simulated(level, 0.03, 6), K, 0.1).against_window.factor.value
    counted = [
        realised_shares(level, progress(simulated(level, 0.03 / math.sqrt(factor), seed).means, K))[1]
        for seed in range(20)
    ]
    # The factor is known to a few percent (trend and noise from 1,000 points), 20,000 signs to 0.003.
    assert np.mean(counted) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("measured", [False, True])
def test_intervals_hold_the_truth_about_as_often_as_they_say(measured, monkeypatch):
    monkeypatch.setattr(model, "RESAMPLES", 200)
    level, noise, prompts = line(150, 0.001), 0.03, 16
    true = NORMAL.cdf(0.001 * (K + 1) / 2 / (noise * TAU))
    held, trends = 0, 0
    for seed in range(60):
        draws = np.random.default_rng(100 + seed).normal(size=(150, prompts))
        each = level[:, None] + noise * math.sqrt(prompts) * draws
        variances = each.var(axis=1, ddof=1) / prompts if measured else None
        curve = Curve(name="run", source="simulated", steps=np.arange(150), means=each.mean(axis=1))
        found = study(replace(curve, variances=variances), K, 0.1)
        assert found.measured == measured
        answer = found.against_window.probability
        held += answer.low <= true <= answer.high
        trends += found.trend.low <= 0.001 <= found.trend.high
    # Of 60 at 95 %, 51 or fewer have a probability of 0.004; percentile intervals are a little short.
    assert held >= 51
    assert trends >= 51


def test_a_flat_run_is_a_coin_and_says_so():
    found = study(simulated(line(400, 0.0), 0.03, 8), K, 0.1)
    assert found.against_window.probability.value == pytest.approx(0.5, abs=0.02)
    assert found.against_window.probability.low < 0.5
    assert math.isinf(found.against_window.factor.high)


def test_noise_is_measured_from_the_spread_of_prompts():
    # Prompts' success rates are uniform, so a prompt's mean of 4 responses has variance
    # 1/12 + E[p (1 - p)] / 4 = 1/12 + 1/24; the mean of 32 prompts a thirty-second of that.
    generator = np.random.default_rng(9)
    rewards = {
        step: {
            str(prompt): (generator.uniform(size=4) < rate).astype(float).tolist()
            for prompt, rate in enumerate(generator.uniform(size=32))
        }
        for step in range(400)
    }
    curve = from_prompts("run", "simulated", rewards)
    found = study(curve, K, 0.1)
    assert curve.prompts == 32
    assert found.measured
    # 12,400 degrees of freedom: 1.3 % is one standard error of a standard deviation of these.
    assert found.noise == pytest.approx(math.sqrt(0.125 / 32), rel=0.025)
    # 400 second differences: 5 %.
    assert found.curve_noise == pytest.approx(found.noise, rel=0.12)


def test_scatter_beyond_the_draw_of_prompts_is_told(tmp_path, capsys):
    generator = np.random.default_rng(10)
    rows = ["step,prompt,reward"]
    for step in range(60):
        level = generator.uniform(0.2, 0.8)  # J itself jumps, and prompts hardly differ
        rows += [f"{step},{p},{level + 0.01 * generator.normal()}" for p in range(16)]
    path = tmp_path / "jumps.csv"
    path.write_text("\n".join(rows) + "\n")
    main([str(path), "--out", str(tmp_path / "f.png")])
    out = capsys.readouterr().out
    assert "measured: spread of the prompts' means" in out
    assert "times as much as the draw of prompts explains" in out


def test_an_exact_line_has_certain_signs():
    found = study(from_means("run", "exact", {t: t / 64 for t in range(40)}), K, 0.1)
    assert found.noise == pytest.approx(0.0, abs=1e-12)
    assert found.last.probability.value == pytest.approx(1.0)


# --- Curves -----------------------------------------------------------------------------------------


def test_what_was_left_out_and_how_far_rows_are_apart_is_noted():
    curve = from_means("run", "x", {10: 0.1, 0: 0.2, 20: math.nan, 30: 0.3, 40: 0.4})
    assert curve.steps.tolist() == [0, 10, 30, 40]
    assert curve.notes == (
        "left out, because their reward is missing or not finite: iterations 20",
        "rows are 10 to 20 steps apart; they are read as neighbours all the same",
    )


def test_short_and_constant_curves_are_refused_with_a_line_that_says_what_is_needed():
    with pytest.raises(ConfigError, match=r"run: 15 iterations .* window of 8 at least 16 are needed"):
        check_length(from_means("run", "x", dict.fromkeys(range(15), 0.5)), K)
    with pytest.raises(ConfigError, match=r"run: the mean reward is 0.5 in all 16 iterations"):
        check_length(from_means("run", "x", dict.fromkeys(range(16), 0.5)), K)


def test_a_run_without_a_window_that_varies_is_refused():
    with pytest.raises(
        ConfigError, match=r"run: no window of 8 iterations varies, so no feedback is defined"
    ):
        study(from_means("run", "x", dict.fromkeys(range(20), 0.5) | {20: 0.6}), K, 0.1)


# --- The program ------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "curve.csv"
    curve = simulated(line(80, 0.004), 0.05, 0)
    path.write_text("step,reward\n" + "".join(f"{t},{m}\n" for t, m in enumerate(curve.means)))
    return path


def test_table_names_every_figure_and_the_picture_is_written(table, tmp_path, capsys):
    out = tmp_path / "new" / "f.png"
    main([str(table), "--prompts", "64", "--out", str(out)])
    text = capsys.readouterr().out
    assert out.read_bytes().startswith(b"\x89PNG")
    for words in (
        "curve: CSV, column reward",
        "80, of these 72 with a feedback (K = 8)",
        "at most: scatter of neighbouring means",
        "the last iteration's change",
        "the change against the last 8",
        "prompts for 90%",
    ):
        assert words in text


def test_json_holds_what_the_table_says(table, tmp_path, capsys):
    main(
        [str(table), str(table), "--json", "--window", "4", "--lambda", "0", "--out", str(tmp_path / "f.png")]
    )
    first, second = json.loads(capsys.readouterr().out)
    assert first == second
    assert first["window"] == 4
    assert first["with_feedback"] == 76
    assert first["prompts"] is None
    assert first["noise_from"] == "curve"
    # Drops are not acted on at lambda = 0, so the mean is that of the rises.
    xi = progress(np.loadtxt(table, delimiter=",", skiprows=1)[:, 1], 4)[4:]
    assert first["mean_coefficient"] == pytest.approx(np.clip(xi, 0, None).mean(), rel=1e-9)
    assert first["last_change"]["prompts_factor"]["value"] > 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--window", "1"], "--window 1: at least 2 values"),
        (["--lambda", "2"], "--lambda 2.0: must lie in [0, 1]"),
        (["--prompts", "0"], "--prompts 0: must be at least 1"),
        (["--out", "f.txt"], "the name has to end in .png"),
    ],
)
def test_bad_options_are_refused_by_name(table, arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(table), *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_the_program_starts_without_torch():
    code = "import pipo.analysis.feedback.__main__, sys; print({'torch', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
