"""Every method over several turns, on the toy: what is learnt from, and what goes on from the cache."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch

from pipo.callbacks.teacher import TeacherAverage
from pipo.modules.annotation import score_responses
from pipo.modules.hooks import RolloutCallback
from tests import toy
from tests.integration.two_ranks import OBJECTIVES

# Two tokens of five end a turn, so that most episodes of the untrained toy have two or three.
DRAW = {"max_response_tokens": 14, "stop_token_ids": frozenset(range(1, 48, 5)) | frozenset(range(2, 48, 5))}


class Look(RolloutCallback):
    """Keeps the batches, what the trainer's weights say of them, and the metrics."""

    def __init__(self) -> None:
        self.batches, self.rollouts, self.again = [], [], []
        self.rows: list[dict[str, float]] = []

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        self.batches.append(batch)
        self.rollouts.append(rollouts)
        options = {"temperature": 1.0, "token_budget": 4096, "device": module.device, "passes": lambda n: n}
        self.again.append(score_responses(module.policy, rollouts, **options))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.rows.append(dict(pl_module.row))


def run(name: str, callbacks: list[pl.Callback], draw=None, **options) -> Look:
    look = Look()
    module = toy.module(OBJECTIVES[name](), draw={**DRAW, **(draw or {})}, learning_rate=1e-3, **options)
    module.collector.task = toy.TalkingTask()
    teacher = [TeacherAverage(weight=0.05)] if name == "sdpo_official" else []
    toy.fit(module, [*teacher, *callbacks, look], 4)
    return look


def check(look: Look) -> None:
    assert len(look.rows) == 4
    for row, batch, rollouts in zip(look.rows, look.batches, look.rollouts, strict=True):
        assert all(math.isfinite(value) for value in row.values())
        assert row["rollout/turns"] > 1.3
        assert row["policy/grad_norm"] > 0
        inserted = batch.response_mask & ~batch.sampled
        assert inserted.any()
        assert set(batch.response_ids[inserted].tolist()) == {30, 31}
        for values in (batch.advantages, batch.attribution, batch.old_logprobs):
            assert (values[~batch.sampled] == 0).all()
        # What the environment said last; where it said nothing, the task's verdict.
        for said, reward in zip(rollouts.transcripts, rollouts.rewards.tolist(), strict=True):
            assert reward in (0.0, 1.0, pytest.approx(1 / 3), pytest.approx(1 / 5)), said


@pytest.mark.parametrize(
    "name", [n if n in ("ppo", "sdpo") else pytest.param(n, marks=pytest.mark.slow) for n in OBJECTIVES]
)
def test_each_algorithm_with_pipo_learns_from_sampled_tokens_alone(name):
    look = run(name, [toy.pipo(window=2)], rounds=2 if name == "dapo" else 0)
    check(look)
    assert [row["pipo/applied"] for row in look.rows] == [0, 0, 1, 1]
    # Read turn by turn while sampling and at once by the trainer: the same, until an update comes between.
    for again, batch in zip(look.again[:2], look.batches[:2], strict=True):
        torch.testing.assert_close(again, batch.old_logprobs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["grpo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_paired_feedback_and_step_control_measure_whole_episodes(name):
    look = run(name, [toy.step_control(), toy.pipo(window=2, feedback="paired")], look_back="device")
    check(look)
    for row in look.rows[1:]:
        assert row["pipo/distance"] >= 0
        assert row["pipo/spread"] > 0
        assert math.isfinite(row["pipo/evidence"])


@pytest.mark.slow
def test_the_sampling_mask_is_that_of_sampled_tokens():
    look = run("grpo", [toy.pipo(window=2)], draw={"top_k": 9})
    check(look)
    for row, batch in zip(look.rows, look.batches, strict=True):
        assert row["rollout/kept_tokens"] == pytest.approx(9)
        assert batch.kept is not None
