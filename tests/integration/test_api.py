"""``pipo.train`` and ``pipo.evaluate``, and the notebook that shows them."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient

import pipo
from pipo.api import _value
from pipo.config.command_line import composed_job
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.errors import ConfigError
from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples/pipo.ipynb"
SIZES = {
    "recipe.responses": 8,
    "recipe.mini_batch": 4,
    "algo.group_size": 4,
    "evaluation.problems": 2,
    "evaluation.samples": 1,
    "evaluation.ks": [1],
    "curve.samples": 1,
    "samples.every": 1,
}


class Counting(pl.Callback):
    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.count += 1


def notebook(folder: Path) -> nbformat.NotebookNode:
    """The notebook with a run's length that a test can wait for."""
    loaded = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = [cell for cell in loaded.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = f"iterations, folder, sizes = 2, {str(folder)!r}, {SIZES}"
    return loaded


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[str, Any]:
    """The names that the notebook's cells leave behind, run one after another in this process."""
    names: dict[str, Any] = {}
    for cell in notebook(tmp_path_factory.mktemp("a folder, of runs")).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, str(NOTEBOOK), "exec"), names)
    plt.close("all")
    return names


def test_the_notebook_trains_and_measures_and_scores(ran):
    run, scored = ran["with_pipo"], ran["scored"]
    at, _ = run.curve("pipo/improvement")
    assert at.tolist() == [1]  # of two iterations, the first has none before it
    # A mean over eight responses to each of 64 problems.
    assert scored.average["pass@1"] * 64 * 8 == pytest.approx(round(scored.average["pass@1"] * 64 * 8))
    assert (len(scored.samples), list(scored.results)) == (64, ["arithmetic"])


def test_a_run_from_a_script_is_read_and_gone_on_with(ran, compose_config):
    run, counting, handlers = ran["with_pipo"], Counting(), list(logging.getLogger().handlers)
    at, reward = run.curve("train/reward")
    assert at.tolist() == [0, 1]
    assert reward.tolist() == [row["train/reward"] for row in run.metrics]
    assert (run.model / "config.json").is_file()
    assert {row["iteration"] for row in run.samples} == {0, 1}
    with pytest.raises(KeyError, match=r"no such metric; there are .*train/reward"):
        run.curve("train/rewards")
    (start,) = [json.loads(line) for line in (run.folder / "run.jsonl").read_text().splitlines()]
    assert start["command"][:2] == ["python", "train.py"]
    # What the record says was typed composes to the same configuration.
    typed = read(compose_config(*start["command"][2:]), TrainConfig)
    assert (typed.output_dir, typed.iterations, typed.evaluation.ks) == (str(run.folder), 2, (1,))
    again = pipo.train(f"resume={run.folder}", "iterations=3", callbacks=[counting])
    assert (again, again.summary["iterations"], counting.count) == (run, 3, 1)
    assert logging.getLogger().handlers == handlers


class Rows(pl.Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.rows.append({k: v for k, v in pl_module.row.items() if not k.startswith(UNEQUAL)})


# Seconds, and what is counted per second.
UNEQUAL = ("time/", "train/tokens_per_second", "rollout/tokens_per_second")


def test_a_trainer_of_ones_own_makes_the_same_iterations(ran):
    """As many as the notebook's run with PIPO, whose window they do not fill; its callback takes part."""
    rows, around = Rows(), ("evaluation", "curve", "samples")
    options = {name: value for name, value in SIZES.items() if not name.startswith(around)}
    with pipo.parts("pipo=default", improvement="device", iterations=2, **options) as parts:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=1,
            callbacks=[*parts.callbacks, rows],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(parts.module, datamodule=parts.data)
    assert len(rows.rows) == 2
    for mine, theirs in zip(rows.rows, ran["with_pipo"].metrics[:2], strict=True):
        assert {"pipo/applied", "policy/grad_norm", "train/reward"} <= mine.keys()
        assert mine == {name: theirs[name] for name in mine}


@pytest.mark.parametrize("word", ["trainer.devices=2", "callbacks=early_stopping", "+logger.x=1", "resume=a"])
def test_what_is_the_trainers_is_not_for_the_parts(word):
    with (
        pytest.raises(ConfigError, match=r"^[a-z.]+: pipo\.parts builds .* your Trainer's"),
        pipo.parts(word),
    ):
        pass


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["pippo=none"], {}, "did you mean pipo\\?"),
        ([], {"iterations": 0}, "iterations: expected a number >= 1, got 0"),
        ([], {"trainer.max_epochs": 3}, "trainer.max_epochs: one epoch is the whole run"),
        ([], {"callbacks.x._target_": "no.Such"}, "callbacks.x._target_: no.Such cannot be used"),
        (["resume=./nothing"], {}, "nothing"),
    ],
)
def test_a_mistake_is_an_error_of_one_line(words, options, message):
    with pytest.raises(ConfigError, match=message) as raised:
        pipo.train(*words, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "null"),
        (True, "true"),
        (1e-05, "1e-05"),
        ("a b's", r"'a b\'s'"),
        (Path("x/y"), "x/y"),
        ([1, (2, "c d")], "[1,[2,'c d']]"),
        ({"_target_": "a.B", "n": None}, "{_target_: a.B,n: null}"),
    ],
)
def test_values_become_words_that_hydra_reads(value, word):
    assert _value(value) == word


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel_and_shows_its_figures(tmp_path):
    loaded, where = notebook(tmp_path), {"metadata": {"path": ROOT}}
    NotebookClient(loaded, timeout=250, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in loaded.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("torch", "lightning", "hydra", "numpy")
    code = f"import sys, pipo; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_what_the_page_shows_is_what_there_is():
    """Every call composes, and every name of its table is there."""
    page = (ROOT / "docs/api.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    calls = [
        node
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("pipo.train", "pipo.evaluate", "pipo.parts")
    ]
    assert len(calls) == 4
    for call in calls:
        words = [each.value for each in call.args if isinstance(each, ast.Constant)]
        given = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        options = {**given.pop(None, {}), **given}
        program = "eval" if ast.unparse(call.func) == "pipo.evaluate" else "train"
        composed_job([*words, *(f"{name}={value}" for name, value in options.items())], program)
    assert set(re.findall(r"^\| `pipo\.(\w+)", page, re.MULTILINE)) == set(pipo.__all__)
