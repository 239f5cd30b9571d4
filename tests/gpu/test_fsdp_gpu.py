"""Shards on GPUs: the same run as with whole weights, and a model of half a billion parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import ROOT
from tests.gpu.wide_model import SOME_REWARD, half_a_billion, write_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.timeout(900),
]


def train(out: Path, *arguments: str) -> list[dict[str, float]]:
    """Run ``train.py`` and return its metrics."""
    settings = ["pipo.window=2", "curve.every=2", "curve.samples=1", "evaluation.problems=32"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), f"output_dir={out}", *settings, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_shards_on_gpus_give_the_run_of_whole_weights(tmp_path):
    """float32 products in another order differ by 1e-6; sampled tokens, and so the rewards, do not."""
    same = ["iterations=4", "recipe.responses=64", "recipe.mini_batch=32"]
    devices = torch.cuda.device_count()
    whole = train(tmp_path / "ddp", "strategy=ddp", *same)
    shards = train(tmp_path / "fsdp", "strategy=fsdp", *same)
    for mine, theirs in zip(shards, whole, strict=True):
        assert mine["train/reward"] == theirs["train/reward"], f"{devices} GPUs"
        assert mine["policy/grad_norm"] == pytest.approx(theirs["policy/grad_norm"], rel=1e-3)


@pytest.mark.parametrize("offload", [False, True])
def test_half_a_billion_parameters_in_bfloat16_for_a_few_iterations(tmp_path, offload):
    """The shape of Qwen3-0.6B with random weights and the embedded tokenizer."""
    model = write_model(half_a_billion(), tmp_path / "random")
    rows = train(
        tmp_path / "run",
        "strategy=fsdp",
        "strategy.compute_dtype=bfloat16",
        f"strategy.sharding.cpu_offload={offload}".lower(),
        "strategy.tokens_per_micro_batch=16384",
        f"model={model}",
        "model.gradient_checkpointing=true",
        "recipe.responses=64",
        "recipe.mini_batch=32",
        "recipe.kl_coef=0.001",
        "task.max_response_tokens=512",
        "iterations=3",
        SOME_REWARD,
    )
    assert len(rows) == 3
    for row in rows:
        assert 0 < row["policy/grad_norm"] < float("inf")
        assert abs(row["policy/loss"]) < float("inf")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    before = AutoModelForCausalLM.from_pretrained(model)
    moved = [
        (a - b).abs().max().item() for a, b in zip(trained.parameters(), before.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 1e-3
