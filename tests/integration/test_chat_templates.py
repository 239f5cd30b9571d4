"""Evaluations of a model whose chat template shows the date, refuses a turn, or has been changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from pipo.errors import ConfigError
from pipo.evaluation.comparison_table import print_comparison
from pipo.scoring import score
from tests.conftest import ROOT

TEMPLATE = "{{ strftime_now('%f') }}+{{ messages[-1].content }}="
Evaluate = Callable[..., Path]


@pytest.fixture
def evaluate(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Evaluate:
    """Score a few sums with a copy of the embedded model that has a chat template."""
    model = tmp_path / "model"
    shutil.copytree(ROOT / "pipo/lm/assets/tiny", model)

    def run(folder: str, template: str, *, resume: bool = False) -> Path:
        (model / "chat_template.jinja").write_text(template)
        options = ["benchmark=arithmetic", "evaluation.problems=4", "evaluation.prompts_per_batch=2"]
        options += ["model=huggingface", f"model.path={model}", f"output_dir={tmp_path / folder}"]
        overrides = [f"resume={tmp_path / folder}"] if resume else options
        score(compose_config(*overrides, name="eval"), overrides)
        return tmp_path / folder

    return run


def test_a_prompt_with_the_time_can_be_gone_on_with(evaluate: Evaluate) -> None:
    folder = evaluate("a", TEMPLATE)
    (folder / "results.json").unlink()
    rows = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(rows[0])["prompt"].startswith("000000+")  # midnight to the microsecond
    (folder / "samples.jsonl").write_text("".join(rows[:2]))
    evaluate("a", TEMPLATE, resume=True)
    assert (folder / "samples.jsonl").read_text() == "".join(rows)


def test_a_changed_template_is_not_gone_on_with(evaluate: Evaluate, tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ messages[-1].content }}="
    folder = evaluate("a", template)
    (folder / "results.json").unlink()

    def refused(template: str, key: str, was: str = r"\w+") -> None:
        message = rf"^resume=.*: arithmetic: {key} was {was} at the beginning and is \w+ now; score again"
        with pytest.raises(ConfigError, match=message):
            evaluate("a", template, resume=True)

    refused(template + "{# a remark #}", "chat_template")
    # The same template with another first token, and a folder that does not say which template it had.
    path = tmp_path / "model/tokenizer_config.json"
    config = path.read_text()
    path.write_text(json.dumps({**json.loads(config), "bos_token": "1"}))
    refused(template, "prompt_tokens_hash")
    path.write_text(config)
    identity = json.loads((folder / "identity.json").read_text())
    del identity["arithmetic"]["chat_template"]
    (folder / "identity.json").write_text(json.dumps(identity))
    refused(template, "chat_template", "not recorded")


def test_comparing_says_that_the_templates_differ(
    evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    a, same = evaluate("a", TEMPLATE), evaluate("same", TEMPLATE)
    other = evaluate("other", TEMPLATE.replace("=", "+1="))
    capsys.readouterr()
    print_comparison([str(a), str(same)])
    assert "chat template" not in capsys.readouterr().out
    print_comparison([str(a), str(other)])
    out = " ".join(capsys.readouterr().out.split())
    assert "arithmetic: the chat templates differ (hash" in out


def test_a_template_that_fails_is_one_line_before_anything_is_loaded(evaluate: Evaluate) -> None:
    message = r"^benchmark\.parts\.arithmetic: .*/model: its chat template fails: no sums here$"
    with pytest.raises(ConfigError, match=message):
        evaluate("a", "{{ raise_exception('no sums here') }}")
