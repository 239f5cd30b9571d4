"""Forms that the offline feedback tool reads, each from small files written as the library writes them.

The layouts are from the libraries' own sources: TRL 1.10.0.dev0 (grpo_trainer.py), verl 0.8.0.dev
(aggregate_logger.py, tracking.py, ray_trainer.py), prime-rl 0.8.0 and its main branch of August 2026
(monitors/file.py, orchestrator/metrics.py) with the records of verifiers (episode.py, trace.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipo.analysis.feedback.__main__ import main
from pipo.analysis.feedback.curve import Curve
from pipo.analysis.feedback.forms import FORMS, read
from pipo.errors import ConfigError

STEPS = range(1, 21)
# Two prompts with two responses each: means (0.5, 1.0) and so on, all exact in binary.
GROUPS = {step: {"a": [0.0, step / 32], "b": [1.0, step / 32]} for step in STEPS}
MEANS = {step: (1 + 2 * step / 32) / 4 for step in STEPS}
# Prompts' means differ by one half: variance 1/8, of the mean of two 1/16.
VARIANCE = 1 / 16


def written(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recognised(path: Path) -> Curve:
    return read(path, None, None, None)


def check_means(curve: Curve) -> None:
    assert curve.steps.tolist() == list(STEPS)
    assert curve.means.tolist() == list(MEANS.values())
    assert curve.variances is None


def check_prompts(curve: Curve) -> None:
    assert curve.steps.tolist() == list(STEPS)
    assert curve.means.tolist() == list(MEANS.values())
    assert curve.variances is not None
    assert curve.variances.tolist() == [VARIANCE] * len(STEPS)
    assert curve.prompts == 2
    assert curve.notes == ()


def responses():
    """Step, prompt and reward of every response."""
    return [(step, p, r) for step, groups in GROUPS.items() for p, rewards in groups.items() for r in rewards]


# --- TRL --------------------------------------------------------------------------------------------


def trl_state(path: Path, every: int = 1) -> Path:
    history = [{"step": s * every, "loss": 0.0, "reward": m, "reward_std": 0.4} for s, m in MEANS.items()]
    history.insert(3, {"step": 3 * every, "eval_loss": 0.1, "eval_reward": 9.0})
    history.append({"step": 21 * every, "train_runtime": 3.0, "train_loss": 0.0})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"epoch": 1.0, "log_history": history, "global_step": 20}, indent=2))
    return path


def test_trl_state_is_a_curve_without_evaluations(tmp_path):
    curve = recognised(trl_state(tmp_path / "run/trainer_state.json"))
    check_means(curve)
    assert curve.name == "run"
    assert curve.source == "TRL, reward of trainer_state.json"


def test_trl_folder_is_that_of_its_last_checkpoint(tmp_path):
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-9/trainer_state.json").write_text('{"log_history": []}')
    trl_state(tmp_path / "checkpoint-20/trainer_state.json", every=5)
    curve = recognised(tmp_path)
    assert curve.means.tolist() == list(MEANS.values())
    assert curve.notes == (
        "rows are 5 steps apart; each is read as one iteration, so changes are between rows",
    )


def trl_tables(folder: Path, extra: dict[str, float] | None = None, name: str = "accuracy_reward") -> Path:
    folder.mkdir(parents=True)
    for step, groups in GROUPS.items():
        rows = [(p, r) for p, rewards in groups.items() for r in rewards]
        columns = {
            "step": [step] * 4,
            "prompt": [p for p, _ in rows],
            "completion": ["..."] * 4,
            name: [r for _, r in rows],
            **{column: [value] * 4 for column, value in (extra or {}).items()},
            "advantage": [0.1] * 4,
        }
        pq.write_table(pa.table(columns), folder / f"completions_{step:05d}.parquet")
    return folder


def test_trl_tables_give_the_spread_of_prompts_and_go_before_the_curve(tmp_path):
    trl_tables(tmp_path / "completions")
    trl_state(tmp_path / "checkpoint-20/trainer_state.json")
    check_prompts(recognised(tmp_path))
    check_prompts(recognised(tmp_path / "completions"))
    check_means(read(tmp_path, "trl", None, None))


def test_trl_tables_of_several_functions_want_to_know_which_count(tmp_path):
    folder = trl_tables(tmp_path / "completions", {"format_reward": 1.0})
    with pytest.raises(
        ConfigError, match=r"00001.parquet: 2 columns may be rewards \(accuracy_reward, format"
    ):
        recognised(folder)
    check_prompts(read(folder, None, "accuracy_reward", None))
    both = read(folder, None, "accuracy_reward,format_reward", None)
    assert both.means == pytest.approx([m + 1 for m in MEANS.values()])
    with pytest.raises(ConfigError, match="no column acc; there are step, prompt, accuracy_reward"):
        read(folder, None, "acc", None)


def test_a_table_with_a_column_reward_needs_no_choice_and_steps_may_be_text(tmp_path):
    # As TRL 0.15 logged to W&B.
    step, prompt, reward = zip(*responses(), strict=True)
    table = pa.table({"step": list(map(str, step)), "prompt": prompt, "completion": prompt, "reward": reward})
    pq.write_table(table, tmp_path / "all.parquet")
    check_prompts(recognised(tmp_path / "all.parquet"))


def test_a_response_that_no_function_scored_is_left_out(tmp_path):
    table = pa.table({"step": [1, 1, 1], "prompt": ["a", "a", "b"], "r": [0.5, None, 1.0]})
    pq.write_table(table, tmp_path / "one.parquet")
    assert recognised(tmp_path / "one.parquet").means.tolist() == [0.75]


# --- verl -------------------------------------------------------------------------------------------


def verl_line(step: int, mean: object, key: str = "critic/score/mean") -> str:
    return f"step:{step} - global_seqlen/min:8 - actor/pg_loss:-0.1 - {key}:{mean} - critic/score/max:1.0"


def test_verl_console_lines_are_found_among_others(tmp_path):
    lines = ["Using LocalLogger is deprecated", "step:0 - val-core/math/reward/mean@1:0.4"]
    lines += [verl_line(s, m) for s, m in MEANS.items() if s < 11]
    # Ray's prefix with its colours, numpy's type, and a second line for a step after a restart.
    lines += [
        f"\x1b[36m(TaskRunner pid=1)\x1b[0m {verl_line(s, f'np.float64({m})')}" for s, m in MEANS.items()
    ]
    path = tmp_path / "verl_demo.log"
    path.write_text("\n".join(lines))
    curve = recognised(path)
    check_means(curve)
    assert curve.source == "verl, critic/score/mean of the console"


def test_verl_score_goes_before_the_reward_with_its_penalty(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("\n".join(f"{verl_line(s, m)} - critic/rewards/mean:-1.0" for s, m in MEANS.items()))
    check_means(recognised(path))
    assert read(path, None, "critic/rewards/mean", None).means.tolist() == [-1.0] * 20
    path.write_text("\n".join(verl_line(s, m, "critic/rewards/mean") for s, m in MEANS.items()))
    assert recognised(path).source == "verl, critic/rewards/mean of the console"


def test_verl_file_logger(tmp_path):
    rows = [{"step": 0, "data": {"val-core/x": 0.1}}]
    rows += [{"step": s, "data": {"critic/score/mean": m, "critic/score/max": 1.0}} for s, m in MEANS.items()]
    curve = recognised(written(tmp_path / "demo.jsonl", rows))
    check_means(curve)
    assert curve.source == "verl, critic/score/mean of the file logger"


def verl_dumps(folder: Path) -> Path:
    for step, groups in GROUPS.items():
        rows = [
            {"input": f"user\n{p}", "output": "42\u2028", "gts": "42", "score": r, "step": step, "acc": 1.0}
            for p, rewards in groups.items()
            for r in rewards
        ]
        path = folder / f"{step}.jsonl"
        folder.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_verl_rollouts_are_grouped_by_input(tmp_path):
    folder = verl_dumps(tmp_path / "rollouts")
    check_prompts(recognised(folder))
    with pytest.raises(ConfigError, match=r"7.jsonl: one iteration's rollouts; name the folder"):
        recognised(folder / "7.jsonl")
    with (folder / "7.jsonl").open("a") as file:
        file.write('{"input": "c", "score": "good"}\n')
    with pytest.raises(ConfigError, match=r"7.jsonl, line 5, score: 'good' is not a number"):
        recognised(folder)


# --- prime-rl ---------------------------------------------------------------------------------------


def prime_metrics(path: Path, agents: tuple[str, ...] = ("agent",)) -> Path:
    rows = []
    for step, mean in MEANS.items():
        key = "train/agg/{}/{}/reward/mean"
        rewards = {key.format("all", agent): mean for agent in agents}
        rewards |= {key.format("effective", agent): 0.5 for agent in agents}
        rows.append({"step": step, "time": 1.0, **rewards, "train/math/all/agent/reward/mean": 0.3})
        rows.append({"step": step, "time": 2.0, "optim/grad_norm": 0.1})  # the trainer's row
    return written(path, rows)


def test_prime_rl_metrics_are_those_before_the_filters(tmp_path):
    curve = recognised(prime_metrics(tmp_path / "metrics.jsonl"))
    check_means(curve)
    assert curve.source == "prime-rl, train/agg/all/agent/reward/mean"
    check_means(recognised(tmp_path))


def test_prime_rl_of_several_agents_wants_to_know_which(tmp_path):
    prime_metrics(tmp_path / "metrics.jsonl", ("judge", "solver"))
    with pytest.raises(
        ConfigError, match="rewards of several agents; say which with --reward: train/agg/all/j"
    ):
        recognised(tmp_path)
    check_means(read(tmp_path, None, "train/agg/all/solver/reward/mean", None))


@pytest.mark.parametrize("version", ["0.8", "later"])
def test_prime_rl_traces_are_grouped(tmp_path, version):
    prime_metrics(tmp_path / "metrics.jsonl")
    for step, groups in GROUPS.items():
        lines = []
        for group, rewards in groups.items():
            for reward in rewards:
                # Half the reward from each of two functions, one weighted.
                parts = {
                    "right": {"score": reward / 2, "weight": 1.0},
                    "form": {"score": reward, "weight": 0.5},
                }
                trace = {"rewards": parts, "info": {"group_id": group}, "agent": {"name": "agent"}}
                episode = {"id": "x", "group": {"id": group}, "ok": True, "traces": [trace | {"info": {}}]}
                lines.append(trace if version == "0.8" else episode)
        written(tmp_path / f"rollouts/step_{step}/train/all/traces.jsonl", lines)
    check_prompts(recognised(tmp_path))
    check_means(read(tmp_path, "prime-rl", None, None))


# --- Ours, and CSV ----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run folder: 24 iterations, of which the probe knows all."""
    generator = np.random.default_rng(0)
    means = 0.3 + 0.02 * np.arange(24) + 0.05 * generator.normal(size=24)
    rows = [{"iteration": t, "train/reward": float(m), "policy/loss": 0.0} for t, m in enumerate(means)]
    written(tmp_path / "run/metrics.jsonl", rows)
    probe = [
        {"iteration": t, "progress": None, "rewards": (0.02 * t + 0.01 * generator.normal(size=6)).tolist()}
        for t in range(24)
    ]
    written(tmp_path / "run/probe.jsonl", probe)
    (tmp_path / "run/config.yaml").write_text("recipe:\n  responses: 128\nalgo:\n  group_size: 8\n")
    return tmp_path / "run"


def test_our_run_has_its_number_of_prompts_and_its_probe(run):
    curve = recognised(run)
    assert curve.source == "pipo, train/reward of metrics.jsonl"
    assert len(curve.means) == 24
    assert curve.prompts == 16
    assert curve.probe == run / "probe.jsonl"
    assert recognised(run / "metrics.jsonl").means.tolist() == curve.means.tolist()


def test_our_csv_says_the_same(run):
    means = recognised(run).means
    rows = "".join(f"{t},,{m!r}\n" for t, m in enumerate(means.tolist()))
    (run / "metrics.csv").write_text("iteration,eval/pass@1,train/reward\n24,0.5,\n" + rows)
    assert recognised(run / "metrics.csv").means.tolist() == means.tolist()
    (run / "metrics.jsonl").unlink()
    assert recognised(run).source == "pipo, train/reward of metrics.csv"


def test_realised_agreement_stands_beside_the_estimate(run, tmp_path, capsys):
    out = tmp_path / "f.png"
    main([str(run), "--json", "--out", str(out)])
    (found,) = json.loads(capsys.readouterr().out)
    xi_positive = 1 - found["negative_share"]
    # The probe rises by 0.02 and errs by 0.01 / sqrt(6): always up, so that signs agree where xi > 0.
    assert found["change_against_window"]["realised"]["value"] == pytest.approx(xi_positive)
    main([str(run), "--out", str(out)])
    assert "by chance" in capsys.readouterr().out


def test_a_probe_that_is_too_short_is_told(run, tmp_path, capsys):
    lines = (run / "probe.jsonl").read_text().splitlines(keepends=True)
    (run / "probe.jsonl").write_text("".join(lines[:9]))
    main([str(run), "--out", str(tmp_path / "f.png")])
    out = capsys.readouterr().out
    assert "note: probe.jsonl is too short to compare" in out
    assert "realised" not in out


def test_plain_csv_in_both_forms(tmp_path):
    short, long = tmp_path / "short.csv", tmp_path / "long.csv"
    short.write_text("step,reward\r\n" + "".join(f"{s},{m}\r\n" for s, m in MEANS.items()))
    check_means(recognised(short))
    long.write_text("prompt,step,reward\n" + "".join(f'"{p}, x",{s},{r}\n' for s, p, r in responses()))
    check_prompts(recognised(long))
    short.write_text("\ufeffstep,score\n" + "".join(f"{s},{m}\n" for s, m in MEANS.items()))
    check_means(read(short, None, "score", None))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step,score\n1,0.5\n", "bad.csv: no column reward; there are step, score"),
        ("step,reward\n1,0.5\n2,high\n", "bad.csv, line 3, column reward: 'high' is not a number"),
        ("step,reward\n1.5,0.5\n", "bad.csv, line 2, column step: '1.5' is not the number of an iteration"),
        ("step,reward\n1,0.5,7\n", "bad.csv, line 2: 3 cells for 2 columns"),
        ("step,reward\n1,0.5\n1,0.6\n", "bad.csv, line 3: step 1 again; name the prompts in a column"),
        ("step,reward\n", "bad.csv: no rows; name another file"),
    ],
)
def test_bad_csv_is_one_line_with_row_and_column(tmp_path, text, words, capsys):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main([str(path), "--out", str(tmp_path / "f.png")])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "f.png").exists()


def test_other_bad_files_are_refused_by_name(tmp_path):
    nothing = tmp_path / "notes.txt"
    nothing.write_text("hello\n")
    with pytest.raises(ConfigError, match=r"notes.txt: none of the forms trl-completions, trl, .* --form"):
        recognised(nothing)
    with pytest.raises(ConfigError, match=r"gone: there is no such file or folder"):
        recognised(tmp_path / "gone")
    with pytest.raises(
        ConfigError, match=r"notes.txt: no critic/score/mean or critic/rewards/mean in any line"
    ):
        read(nothing, "verl", None, None)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(ConfigError, match=r"broken.parquet: cannot be read as Parquet"):
        recognised(broken)
    lines = written(tmp_path / "m.jsonl", [{"iteration": 0, "train/reward": 0.5}])
    lines.write_text(lines.read_text() + "{half\n" + lines.read_text() + '{"iteration": 2, "tr')
    with pytest.raises(ConfigError, match=r"m.jsonl, line 2: not JSON"):
        recognised(lines)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_refuses_what_is_another_one(tmp_path, form):
    """With ``--form`` the reader itself must say what is wrong, in one line."""
    path = tmp_path / "other.txt"
    path.write_text('{"a": 1}\n')
    with pytest.raises(ConfigError) as refused:
        read(path, form, None, None)
    assert str(path) in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, form, None, None)
    assert str(tmp_path) in str(refused.value)
