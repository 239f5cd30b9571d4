"""``train.py`` in two processes, started by Lightning and by torchrun, from its arguments to the summary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipo.runs.checkpoints import finished_checkpoints
from tests.conftest import ROOT

SMALL = [
    "iterations=3",
    "recipe.responses=32",
    "recipe.mini_batch=16",
    "pipo.window=2",
    "curve.every=2",
    "curve.samples=1",
    # Five batches of problems for two ranks: one of them has nothing to do in the third round.
    "evaluation.problems=9",
    "evaluation.prompts_per_batch=2",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False
    )


def rows_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The same short run in three ways."""
    root = tmp_path_factory.mktemp("strategies")
    starts = {"ddp": [], "fsdp": [], "torchrun": TORCHRUN}
    for name, launcher in starts.items():
        strategy = "fsdp" if name == "torchrun" else name
        out = f"output_dir={root / name}"
        done = run(*launcher, str(ROOT / "train.py"), f"strategy={strategy}", *SMALL, out)
        assert done.returncode == 0, done.stderr[-3000:]
        (root / f"{name}.out").write_text(done.stdout)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp", "torchrun"])
def test_a_run_of_two_processes_leaves_what_a_run_leaves_once(runs, name):
    folder, said = runs / name, (runs / f"{name}.out").read_text()
    assert [row["iteration"] for row in rows_of(folder)] == [0, 1, 2]
    assert rows_of(folder)[2]["pipo/applied"] in (0, 1)
    assert "eval/pass@1" in rows_of(folder)[1]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["iterations"] == 3
    for part in ("curves.png", "metrics.csv", "samples.jsonl", "config.yaml", "checkpoints"):
        assert (folder / part).exists(), part
    assert len((folder / "run.jsonl").read_text().splitlines()) == 1
    assert said.count("before training:") == said.count("after training:") == 1
    assert said.count("iteration 3/3") == 1
    assert sorted(path.name for path in runs.iterdir() if path.is_dir()) == ["ddp", "fsdp", "torchrun"]


@pytest.mark.slow
def test_shards_and_whole_weights_give_the_same_run(runs):
    for mine, theirs in zip(rows_of(runs / "fsdp"), rows_of(runs / "ddp"), strict=True):
        for key, value in theirs.items():
            if not key.startswith("time/") and "per_second" not in key:
                assert mine[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(runs / name / "model")(ids).logits
            for name in ("ddp", "fsdp", "torchrun")
        ]
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_checkpoint_in_shards_can_be_scored(runs, tmp_path):
    checkpoint = finished_checkpoints(runs / "fsdp" / "checkpoints")[-1]
    scored = {}
    for name, model in {"shards": checkpoint, "export": runs / "fsdp"}.items():
        settings = ["evaluation.problems=16", "evaluation.samples=8", f"output_dir={tmp_path / name}"]
        done = run(str(ROOT / "eval.py"), f"model={model}", *settings)
        assert done.returncode == 0, done.stderr[-3000:]
        scored[name] = json.loads((tmp_path / name / "results.json").read_text())["results"]
    assert scored["shards"] == scored["export"]


@pytest.mark.slow
def test_processes_that_start_together_must_be_told_their_folder():
    done = run(*TORCHRUN, str(ROOT / "train.py"), "strategy=ddp", *SMALL)
    assert done.returncode != 0
    assert "error: output_dir: several processes start at once" in done.stderr
