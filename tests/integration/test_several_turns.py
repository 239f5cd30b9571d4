"""A task with environments, trained on with the embedded model by the program's own path."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipo.modules.annotation import score_responses
from pipo.modules.hooks import RolloutCallback
from pipo.training import train

# With the expression put again a response is up to three times as long as otherwise.
TASK = ["task.source._target_=tests.replies.AskedAgain", "task.max_response_tokens=96"]
SMALL = ["recipe.responses=32", "recipe.mini_batch=16", "evaluation.problems=4", "evaluation.samples=2"]
SMALL += ["evaluation.ks=[1]", "curve.every=100", "samples.every=1", "pipo.window=2", "checkpoint.every=1"]
SEEN: list[dict[str, Any]] = []


class Look(RolloutCallback):
    """Keeps each batch, its texts, and what the trainer's weights say about it."""

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        again = score_responses(
            module.policy,
            rollouts,
            temperature=1.0,
            token_budget=4096,
            device=module.device,
            passes=lambda own: own,
        )
        SEEN.append(
            {"batch": batch, "texts": rollouts.texts, "again": again, "decode": module.collector.decode}
        )


LOOK = f"+callbacks.look={{_target_:{__name__}.Look}}"


def rows(folder: Path) -> list[dict[str, float]]:
    """Metrics without times, which differ."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "time/" not in k and "per_second" not in k} for row in found]


@pytest.fixture(scope="module", params=[pytest.param("grpo", marks=pytest.mark.slow), "ppo"])
def trained(request, compose_config, tmp_path_factory) -> tuple[Path, list[str], list[dict[str, Any]]]:
    """Three iterations, the third with a retrospective update; configuration, and what was seen."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    options = [*TASK, *SMALL, f"algo={request.param}"]
    SEEN.clear()
    train(compose_config(*options, LOOK, "iterations=3", f"output_dir={folder}"), [])
    return folder, options, list(SEEN)


def test_rows_hold_replies_that_are_read_and_not_learnt_from(trained):
    _, _, seen = trained
    answered = 0
    for look in seen:
        batch = look["batch"]
        inserted = batch.response_mask & ~batch.sampled
        for row, (where, text) in enumerate(zip(inserted, look["texts"], strict=True)):
            prompt = look["decode"](batch.prompt_ids[row // batch.group_size])
            replies = look["decode"](batch.response_ids[row][where].tolist())
            count = text.count("\n")
            assert replies == f"\n{prompt}" * count
            answered += count
        assert (batch.advantages[~batch.sampled] == 0).all()
        assert (batch.attribution[~batch.sampled] == 0).all()
        assert (batch.old_logprobs[~batch.sampled] == 0).all()
    assert answered > 20
    # The sampler read a conversation turn by turn, the trainer reads it at once: the same tokens. In the
    # third iteration the retrospective update has moved the weights before they are asked again.
    for look in seen[:2]:
        torch.testing.assert_close(look["again"], look["batch"].old_logprobs, rtol=0, atol=5e-5)


def test_metrics_are_those_of_sampled_tokens(trained):
    folder, _, seen = trained
    found = rows(folder)
    assert len(found) == 3
    assert all(math.isfinite(value) for row in found for value in row.values())
    assert [row["pipo/applied"] for row in found] == [0, 0, 1]
    for row, look in zip(found, seen, strict=True):
        batch = look["batch"]
        assert row["train/response_length"] == pytest.approx(batch.sampled.sum().item() / len(batch))
        turns = sum(1 + text.count("\n") for text in look["texts"]) / len(batch)
        assert 1 < turns < 3
        assert row["rollout/turns"] == pytest.approx(turns)
        assert row["policy/grad_norm"] > 0
        assert row["rollout/logprob_diff"] == 0
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {0.0, 0.5, 1.0} >= {sample["reward"] for sample in samples}
    assert any("\n" in sample["response"] for sample in samples)
    for sample in samples:
        said = sample["messages"]
        assert "".join(each["content"] for each in said) == sample["response"]
        assert [each["role"] for each in said] == ["assistant", "user", "assistant", "user", "assistant"][
            : len(said)
        ]


def test_the_held_out_problems_are_asked_again_too(trained):
    folder, _, _ = trained
    kept = [(folder / "held_out" / name).read_text() for name in ("before.json", "after.json")]
    assert all("\\n" in text for text in kept)


def test_a_resumed_run_repeats_the_conversations(trained, compose_config, tmp_path):
    """It goes on from the second iteration, as after a crash in the third."""
    whole, _, _ = trained
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints/iteration_000003.ckpt")
    (folder / "summary.json").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2]))
    train(compose_config(f"resume={folder}"), [f"resume={folder}"])
    assert rows(folder) == rows(whole)
    assert (folder / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
