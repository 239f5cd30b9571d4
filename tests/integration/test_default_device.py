"""Models are loaded on the CPU, whatever device Lightning makes the default for what it builds.

On a machine with a GPU that default is the GPU. Here it is torch's ``meta`` device, whose tensors hold no
numbers: whatever were made on it could not be used, and the library that reads weights refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from lightning.pytorch.strategies import Strategy

from pipo.callbacks.teacher import TeacherAverage
from pipo.lm.policy import load_policy
from pipo.lm.spec import embedded_model
from pipo.training import train
from tests import toy
from tests.integration.test_ppo import ppo
from tests.integration.test_sdpo import OFFICIAL, sdpo

OBJECTIVES = {
    "grpo with a reference": lambda: toy.grpo(kl_coef=0.05),
    "ppo with a critic and a reference": lambda: ppo(kl_reward_coef=0.05),
    "sdpo with an averaged teacher": lambda: sdpo(OFFICIAL, 0.05),
}


@pytest.fixture
def elsewhere(monkeypatch):
    """Lightning builds under another default device than the CPU, as on a machine with a GPU."""
    entered = []

    @contextmanager
    def context(self, empty_init=None) -> Iterator[None]:
        entered.append(self)
        with torch.device("meta"):
            yield

    monkeypatch.setattr(Strategy, "tensor_init_context", context)
    return entered


def run(objective) -> toy.Record:
    record = toy.Record()
    averaged = objective.distillation is not None and objective.distillation.teacher_average < 1
    more = [TeacherAverage(weight=0.05)] if averaged else []
    size = 1 if objective.critic is not None else 4
    toy.fit(toy.module(objective, group_size=size), [toy.pipo(window=2), *more, record], 4)
    return record


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_is_the_same_whatever_the_default_device_is(request, name):
    plain = run(OBJECTIVES[name]())
    entered = request.getfixturevalue("elsewhere")
    other = run(OBJECTIVES[name]())
    assert entered
    assert any(metrics["pipo/applied"] for metrics in other.metrics)
    for mine, theirs in zip(other.weights, plain.weights, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("algo", ["grpo", "ppo"])
def test_train_runs_through_the_real_loader(elsewhere, compose_config, tmp_path, algo):
    small = ("iterations=1", "recipe.responses=8", "recipe.mini_batch=8", "recipe.kl_coef=0.001")
    cfg = compose_config(
        f"algo={algo}",
        "trainer.accelerator=cpu",
        *small,
        "evaluation.problems=2",
        "evaluation.samples=1",
        "evaluation.ks=[1]",
        f"output_dir={tmp_path / 'run'}",
    )
    train(cfg, [])
    assert elsewhere
    (row,) = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert row["policy/skipped_steps"] == 0


def test_weights_are_read_on_the_cpu_under_any_default():
    expected = load_policy(embedded_model("tiny"), "float32").state_dict()
    with torch.device("meta"):
        under_a_context = load_policy(embedded_model("tiny"), "float32").state_dict()
    torch.set_default_device("meta")
    try:
        under_a_default = load_policy(embedded_model("tiny"), "float32").state_dict()
    finally:
        torch.set_default_device(None)
    for state in (under_a_context, under_a_default):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
