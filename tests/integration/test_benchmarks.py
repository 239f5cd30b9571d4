"""Benchmarks of several parts through ``eval.py``: files, resuming, comparison, preview, W&B, mistakes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from pipo.config.cli import exit_code
from pipo.config.single_benchmarks import single_benchmarks
from pipo.errors import ConfigError
from pipo.evaluation.comparison_table import print_comparison
from pipo.graders.worker_pool import WorkerStartError
from pipo.lm.spec import ModelSpec
from pipo.scoring import score
from pipo.tasks.arithmetic import ArithmeticTask
from tests import wandb_file
from tests.conftest import ROOT
from tests.programs import Program, run, run_anew

TWO_PARTS = ["benchmark=arithmetic_levels", "evaluation.problems=24", "evaluation.prompts_per_batch=2"]
Compose = Callable[..., DictConfig]


def results(folder: Path) -> dict[str, Any]:
    """The result file without the time of writing, and the commit of whatever folder it was written from."""
    content = json.loads((folder / "results.json").read_text())
    del content["_timestamp"], content["_git_commit_hash"]
    return content


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An evaluation that nothing disturbed."""
    where = tmp_path_factory.mktemp("whole")
    code, out, err = run("eval.py", *TWO_PARTS, "output_dir=whole", cwd=where)
    assert (code, err) == (0, "")
    return where / "whole", out


@pytest.fixture
def compose_eval(compose_config: Compose) -> Compose:
    def make(*overrides: str) -> DictConfig:
        return compose_config(*overrides, name="eval")

    return make


def test_every_part_is_scored_and_written_down(whole: tuple[Path, str]) -> None:
    folder, out = whole
    names = {"config.yaml", "eval.log", "identity.json", "run.jsonl", "results.json", "samples.jsonl"}
    names |= {"table.md", "table.tex"}
    assert {path.name for path in folder.iterdir()} == names
    content = results(folder)
    assert list(content["results"]) == ["easy", "hard"]
    for name, summary in content["results"].items():
        assert (summary["problems"], summary["samples"]) == (24, 192)
        assert summary["pass@1"] == pytest.approx(sum(content["solved"][name]) / 192)
        assert summary["pass@1"] <= summary["maj@8"] + 0.5
        low, high = summary["maj@8_interval"]
        assert low <= summary["maj@8"] <= high
    mean = sum(summary["pass@1"] for summary in content["results"].values()) / 2
    assert content["average"]["pass@1"] == pytest.approx(mean)
    assert f"| tiny | {100 * content['results']['easy']['pass@1']:.1f} |" in (folder / "table.md").read_text()
    assert re.search(rf"average +48 {100 * mean:.1f} ", out)
    assert max(map(len, out.splitlines())) <= 80 + len(str(folder))


def test_results_say_what_was_scored(whole: tuple[Path, str]) -> None:
    metadata = results(whole[0])["metadata"]
    assert metadata["benchmark"] == "arithmetic_levels"
    assert metadata["model"]["name"] == "tiny"
    assert {"config_hash", "git", "python", "versions"} <= set(metadata)
    easy, hard = metadata["parts"]["easy"], metadata["parts"]["hard"]
    assert (easy["task"], easy["version"], easy["template"]) == ("arithmetic", "2", "arithmetic/1")
    assert easy["sampling"]["temperature"] == 1.0
    assert easy["sampling"]["max_response_tokens"] == 32
    assert (easy["samples"], easy["seed"], easy["problems"]) == (8, 1234, 24)
    assert easy["left_out"] == {"count": 0, "first": []}
    assert easy["problems_hash"] != hard["problems_hash"]


def test_each_part_keeps_its_own_limits(compose_eval: Compose, tmp_path: Path) -> None:
    cfg = compose_eval(
        "benchmark=arithmetic_levels",
        "evaluation.problems=4",
        "benchmark.parts.easy.max_response_tokens=3",
        f"output_dir={tmp_path / 'out'}",
    )
    score(cfg, [])
    lengths: dict[str, int] = {}
    for line in (tmp_path / "out/samples.jsonl").read_text().splitlines():
        record = json.loads(line)
        longest = max(sample["length"] for sample in record["samples"])
        lengths[record["part"]] = max(lengths.get(record["part"], 0), longest)
    assert lengths["easy"] == 3
    assert lengths["hard"] > 3


def stopped(where: Path, number: signal.Signals, lines: int) -> tuple[Path, int, str]:
    """An evaluation that a signal stops once so many problems are scored."""
    process = Program("eval.py", *TWO_PARTS, "output_dir=run", cwd=where)
    samples = where / "run/samples.jsonl"
    while not samples.exists() or samples.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate()
    assert not (where / "run/results.json").exists(), "it was over before the signal came"
    return where / "run", process.returncode, err


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_as_if_nothing_had_been(
    whole: tuple[Path, str], tmp_path: Path, compose_eval: Compose
) -> None:
    folder, code, _ = stopped(tmp_path, signal.SIGKILL, 6)
    assert code == -signal.SIGKILL
    samples = folder / "samples.jsonl"
    scored = samples.read_bytes().count(b"\n")
    with samples.open("ab") as file:  # the line that the kill may have torn
        file.write(b'{"part": "hard", "ind')
    score(compose_eval(f"resume={folder}"), [f"resume={folder}"])
    assert samples.read_bytes() == (whole[0] / "samples.jsonl").read_bytes()
    assert results(folder) == results(whole[0])
    assert (folder / "table.md").read_text() == (whole[0] / "table.md").read_text()
    assert 6 <= scored < 48
    with pytest.raises(ConfigError, match="this evaluation is finished"):
        score(compose_eval(f"resume={folder}"), [f"resume={folder}"])


@pytest.mark.slow
def test_ctrl_c_leaves_a_readable_folder_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder, code, err = stopped(tmp_path, signal.SIGINT, 4)
    assert code == 128 + signal.SIGINT
    assert err == "SIGINT: stopped, what is scored stays scored; go on with python eval.py resume=run\n"
    lines = (folder / "samples.jsonl").read_text().split("\n")
    assert [json.loads(line)["index"] for line in lines[:4]] == [0, 1, 2, 3]


def test_going_on_scores_only_what_is_missing(
    whole: tuple[Path, str], tmp_path: Path, compose_eval: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    (folder / "results.json").unlink()
    lines = (folder / "samples.jsonl").read_bytes().split(b"\n")
    (folder / "samples.jsonl").write_bytes(b"\n".join(lines[:45]) + b"\n")  # 44 whole, half a batch

    asked: list[int] = []
    from pipo.rollout.local import LocalEngine

    generate = LocalEngine.generate
    monkeypatch.setattr(
        LocalEngine,
        "generate",
        lambda self, prompts, *rest: asked.append(len(prompts)) or generate(self, prompts, *rest),
    )
    score(compose_eval(f"resume={folder}"), [f"resume={folder}"])
    assert asked == [2, 2]
    assert results(folder) == results(whole[0])


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        ({"uid": "arithmetic/test/9"}, [], r"easy problem 0 .* is not the one that was scored: its data"),
        ({"prompt": "1+1="}, [], "its data or its prompt have changed"),
        ({"index": 7}, [], r"line 1: problem 0 of easy was expected, not 7 of easy"),
        ({}, ["evaluation.samples=4"], r"evaluation\.samples=4: a resumed run keeps its own configuration"),
    ],
)
def test_going_on_refuses_what_does_not_fit(
    whole: tuple[Path, str],
    tmp_path: Path,
    compose_eval: Compose,
    change: dict[str, Any],
    overrides: list[str],
    message: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    (folder / "results.json").unlink()
    first, *rest = (folder / "samples.jsonl").read_text().split("\n")
    (folder / "samples.jsonl").write_text("\n".join([json.dumps({**json.loads(first), **change}), *rest]))
    with pytest.raises(ConfigError, match=message):
        score(compose_eval(f"resume={folder}"), [f"resume={folder}", *overrides])


def test_going_on_where_there_is_no_evaluation(tmp_path: Path, compose_eval: Compose) -> None:
    with pytest.raises(ConfigError, match="no run here"):
        score(compose_eval(f"resume={tmp_path / 'typo'}"), [])
    assert not (tmp_path / "typo").exists()
    (tmp_path / "config.yaml").write_text("output_dir: x\niterations: 3\nalgo: {name: grpo}\n")
    with pytest.raises(ConfigError, match=r"a training run; go on with python train\.py resume="):
        score(compose_eval(f"resume={tmp_path}"), [])


def test_one_program_at_a_time_goes_on(
    whole: tuple[Path, str], tmp_path: Path, compose_eval: Compose
) -> None:
    from pipo.runs import run_folder

    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    (folder / "results.json").unlink()
    with run_folder.held(folder), pytest.raises(ConfigError, match="another program is at work"):
        score(compose_eval(f"resume={folder}"), [])


def test_compare_on_the_command_line(whole: tuple[Path, str], tmp_path: Path, compose_eval: Compose) -> None:
    score(compose_eval(*TWO_PARTS, "evaluation.seed=5", f"output_dir={tmp_path / 'other'}"), [])
    code, out, err = run_anew("eval.py", "compare", str(whole[0]), "other/results.json", cwd=tmp_path)
    assert (code, err) == (0, "")
    first, second = (results(folder)["average"]["pass@1"] for folder in (whole[0], tmp_path / "other"))
    assert f"{100 * (second - first):+.1f} [" in out
    assert "48 problems in 2 parts" in out
    assert "With Holm's correction for 2 comparisons" in out
    code, out, err = run("eval.py", "compare", str(whole[0]), "nowhere", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err == "error: nowhere: no results.json here; name the folder or the file of an evaluation\n"


def test_compare_knows_problems_that_are_not_the_same(
    whole: tuple[Path, str], tmp_path: Path, compose_eval: Compose
) -> None:
    overrides = [*TWO_PARTS, "benchmark.parts.easy.source.seed=1", f"output_dir={tmp_path / 'other'}"]
    score(compose_eval(*overrides), [])
    with pytest.raises(
        ConfigError,
        match=r"easy: the two cannot be compared, their problems with their references and tests \(hash\) ",
    ):
        print_comparison([str(whole[0]), str(tmp_path / "other")])


def test_preview_shows_prompts_and_loads_no_weights(
    compose_eval: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ModelSpec) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(ModelSpec, "load", refuse)
    score(compose_eval("benchmark=arithmetic_levels", "preview=3", f"output_dir={tmp_path / 'out'}"), [])
    out = capsys.readouterr().out
    assert out.count("template arithmetic/1") == 2
    shown = re.findall(r"^-- (\S+): (\d+) tokens\n(.+)=\n-- reference: (\d+)$", out, re.MULTILINE)
    assert [uid for uid, *_ in shown] == [f"arithmetic/test/{i}" for i in range(3)] * 2
    for _, tokens, expression, answer in shown:
        assert int(tokens) == len(expression) + 1  # the tiny tokenizer reads characters
        assert eval(expression) == int(answer)
    assert not (tmp_path / "out").exists()


def test_preview_makes_special_tokens_visible(
    compose_eval: Compose, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipo.lm.spec

    load = pipo.lm.spec.load_tokenizer

    def with_chat_template(path: str):
        tokenizer = load(path)
        tokenizer.chat_template = "{{ eos_token }}{{ messages[0].content }}"
        return tokenizer

    monkeypatch.setattr(pipo.lm.spec, "load_tokenizer", with_chat_template)
    score(compose_eval("preview=1"), [])
    out = capsys.readouterr().out
    assert f"\n{load(str(ROOT / 'pipo/lm/assets/tiny')).eos_token}" in out


def test_one_row_in_wandb_with_the_metrics_that_are_explained(
    compose_eval: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "out"
    score(compose_eval(*TWO_PARTS, "logger=wandb", f"output_dir={folder}"), [])
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    summary: dict[str, Any] = {}
    for record in wandb_file.records(file):
        for item in (*record.history.item, *record.summary.update):
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    content = results(folder)
    for part, expected in {**content["results"], "average": content["average"]}.items():
        for metric in ("pass@1", "pass@8", "maj@8"):
            assert summary[f"eval/{part}/{metric}"] == expected[metric]
    assert summary["eval/table/nrows"] == 3
    logged = {
        re.sub(r"eval/(easy|hard)/", "eval/<part>/", name)
        for name in summary
        if name.startswith("eval/") and "/table" not in name
    }
    page = (ROOT / "docs/evaluation.md").read_text()
    explained = {
        name
        for line in page.splitlines()
        if line.startswith("| `eval/")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }
    assert logged == {name.replace("@<k>", "@8").replace("@<n>", "@8") for name in explained} | {
        "eval/<part>/pass@1",
        "eval/average/pass@1",
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.samples=4"], r"pass@8 needs that many samples, but samples=4"),
        (["+benchmark.average={A: [easy, nope]}"], r"average: there is no part nope; there are easy, hard"),
        (["+benchmark.average={A: [easy]}"], r"average: hard would be scored but is in no column"),
        (["+benchmark.weights={nope: 1}"], r"weights: there is no part nope"),
        (["+benchmark.average=5"], r"benchmark\.average: expected a mapping, got 5"),
        (["+benchmark.not_covered=[{name: live}]"], r"benchmark\.not_covered\.0: missing weight"),
        (["~benchmark.parts.easy", "~benchmark.parts.hard"], r"parts: there is nothing to score"),
        (["logger=csv"], r"logger=csv: an evaluation has no metrics over time"),
        (["preview=0"], r"preview: expected a number >= 1, got 0"),
        (["evaluation.problems=0"], r"evaluation\.problems: expected a number >= 1, got 0"),
        (["device=tpu"], r"device: expected .auto., .cpu. or .cuda., got .tpu."),
        (["benchmark.parts.hard.max_prompt_tokens=2"], r"benchmark\.parts\.hard: .* longer than max_prompt"),
        (
            ["benchmark.parts.hard.max_response_tokens=512"],
            r"parts\.hard\.max_response_tokens=512: .* reads at most 512 tokens, and the longest prompt has",
        ),
        (["benchmark=gsm8k", "data_dir=nowhere"], r"data_dir=nowhere: no such folder"),
        (["benchmark=gsm8k"], r"cannot load openai/gsm8k.*from the Hugging Face hub.*data_dir"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_generated(
    compose_eval: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(ModelSpec, "load", lambda self: pytest.fail("the weights were loaded"))
    cfg = compose_eval("benchmark=arithmetic_levels", *overrides, f"output_dir={tmp_path / 'out'}")
    code, _ = exit_code(lambda: score(cfg, []))
    said = capsys.readouterr()
    assert code == 2
    assert re.search(message, said.err)
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_grader_that_cannot_start_is_one_line(
    compose_eval: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dead(*_: Any) -> None:
        raise WorkerStartError("cannot start a grading worker: no module named math_verify")

    monkeypatch.setattr(ArithmeticTask, "grade", dead)
    cfg = compose_eval("evaluation.problems=2", f"output_dir={tmp_path / 'out'}")
    code, _ = exit_code(lambda: score(cfg, []))
    said = "error: cannot start a grading worker: no module named math_verify; nothing has been scored\n"
    assert (code, capsys.readouterr().err) == (1, said)


def test_all_parts_that_cannot_be_read_are_named_at_once(
    compose_eval: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ["+task@benchmark.parts.gsm8k=gsm8k", "+task@benchmark.parts.again=gsm8k"]
    empty = tmp_path / "empty"
    empty.mkdir()
    cfg = compose_eval(*parts, f"data_dir={empty}", f"output_dir={tmp_path / 'out'}")
    assert exit_code(lambda: score(cfg, []))[0] == 2
    assert capsys.readouterr().err == (
        "error: 2 of the 3 parts of arithmetic cannot be scored:\n"
        f"  benchmark.parts.gsm8k: {empty}/gsm8k_test.jsonl: no such file\n"
        f"  benchmark.parts.again: {empty}/gsm8k_test.jsonl: no such file\n"
    )


def test_an_unknown_benchmark_lists_the_known_ones(tmp_path: Path) -> None:
    code, _, err = run("eval.py", "benchmark=nonsense", cwd=tmp_path)
    assert code == 2
    files = [path.stem for path in (ROOT / "conf/benchmark").glob("*.yaml")]
    known = ", ".join(sorted([*files, *single_benchmarks(ROOT / "conf")]))
    assert err.endswith(f"Available options in 'benchmark': {known}\n")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
