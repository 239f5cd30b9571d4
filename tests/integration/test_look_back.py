"""The last transition, measured in a run: what it says and leaves alone, what is undone, what resumes."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.callbacks.step_options import Rejection
from pipo.modules import transition
from pipo.modules.annotation import score_responses
from pipo.modules.hooks import RolloutCallback
from pipo.records.rollouts import Rollouts, mixed_groups
from pipo.rollout.collector import _select
from pipo.runs.checkpoints import finished_checkpoints
from pipo.training import train
from tests import toy
from tests.integration.test_ppo import ppo


class Keep(RolloutCallback):
    """Keeps rollouts and, at the moment of sampling, the weights."""

    def __init__(self) -> None:
        self.rollouts: list[Rollouts] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.moments: list[torch.Tensor] = []

    def on_look_back(self, trainer, module, improvement, mean_reward) -> bool:
        self.moments.append(
            torch.cat([s["exp_avg"].flatten() for s in module.optimizer(0).optimizer.state.values()])
        )
        return False

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        self.rollouts.append(rollouts)
        self.weights.append({k: v.clone() for k, v in module.policy.state_dict().items()})


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def scored(weights: dict[str, torch.Tensor], rollouts: Rollouts) -> torch.Tensor:
    policy = toy.make_policy()
    policy.load_state_dict(weights)
    place = {"device": torch.device("cpu"), "passes": lambda own: own}
    return score_responses(policy, rollouts, temperature=1.0, token_budget=64, **place).double()


@pytest.mark.parametrize("objective", [None, ppo()])
@pytest.mark.parametrize("loops", [0, 1])
def test_it_is_the_estimate_on_the_weights_of_both_batches(objective, loops):
    """Both sides scored here, with all rows, from weights that were kept when each batch was sampled."""
    keep, record = Keep(), toy.Record()
    loop = [toy.pipo(window=2) for _ in range(loops)]
    toy.fit(toy.module(objective, look_back="device"), [keep, *loop, record], 6)
    measured = [i for i, metrics in enumerate(record.metrics) if "pipo/improvement" in metrics]
    warmup = 0 if objective is None else objective.critic.warmup_iterations
    assert measured == list(range(warmup + 1, 6))
    for i in measured:
        rollouts = keep.rollouts[i]
        present, earlier = scored(keep.weights[i], rollouts), scored(keep.weights[i - 1], rollouts)
        delta = ((present - earlier) * rollouts.completions.sampled).sum(dim=1).view(-1, 4)
        rewards = rollouts.rewards.double().view(-1, 4)
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / 3
        change = ((rewards - others) * (1 - torch.exp(-delta.clamp(-5, 5)))).mean(dim=1)
        metrics = record.metrics[i]
        assert metrics["pipo/improvement"] == pytest.approx(change.mean().item(), abs=2e-6)
        part = delta[mixed_groups(rollouts.rewards, 4)]
        assert metrics["pipo/spread"] == pytest.approx(part.std(correction=0).item(), abs=2e-5)
        assert metrics["pipo/evidence"] == pytest.approx(
            metrics["pipo/improvement"] / metrics["pipo/improvement_se"], rel=1e-6
        )
    assert max(abs(record.metrics[i]["pipo/improvement"]) for i in measured) > 0.01


@pytest.mark.parametrize("place", ["device", "cpu"])
def test_looking_changes_nothing(place):
    plain, looking = toy.Record(), toy.Record()
    toy.fit(toy.module(), [plain, toy.pipo(window=2)], 5)
    module = toy.module(look_back=place)
    toy.fit(module, [looking, toy.pipo(window=2)], 5)
    for one, other in zip(plain.weights, looking.weights, strict=True):
        assert same(one, {k: v for k, v in other.items() if not k.startswith("before.")})


@pytest.mark.slow
def test_in_bfloat16_both_sides_are_grouped_alike(compose_config, tmp_path):
    """Weights that a rate of 1e-30 leaves as they are have not moved; other groups would round otherwise."""
    sizes = (
        "recipe.responses=64",
        "strategy.tokens_per_micro_batch=512",
        "evaluation.problems=4",
        "iterations=2",
    )
    small = (
        "strategy.compute_dtype=bfloat16",
        "recipe.learning_rate=1e-30",
        "improvement=device",
        "pipo=none",
    )
    train(compose_config(*sizes, *small, f"output_dir={tmp_path}"), [])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < rows[1]["rollout/zero_variance_groups"] < 1
    assert rows[1]["pipo/spread"] == 0


def test_groups_that_a_filter_dropped_count(monkeypatch):
    """What is measured on a batch is measured on its mixed groups alone, too."""
    found, real = [], transition.measure_transition

    def twice(models, annotator, rollouts, batch):
        groups = mixed_groups(rollouts.rewards, rollouts.group_size)
        rows = (groups[:, None] * rollouts.group_size + torch.arange(rollouts.group_size)).view(-1)
        part = real(models, annotator, _select(rollouts, groups), batch.rows(rows))
        found.append((len(groups), part, real(models, annotator, rollouts, batch)))
        return found[-1][-1]

    monkeypatch.setattr(transition, "measure_transition", twice)
    toy.fit(toy.module(look_back="device"), [], 8)
    assert any(2 <= count < 4 for count, *_ in found)
    for count, part, whole in found:
        if count >= 2:
            assert asdict(part) == pytest.approx(asdict(whole), rel=1e-4, abs=1e-7)


def test_paired_feedback_is_the_evidence_through_the_same_phi():
    record = toy.Record()
    callback = toy.pipo(window=2, feedback="paired", max_progress=1.0)
    toy.fit(toy.module(look_back="device"), [record, callback], 8)
    acted = [metrics for metrics in record.metrics if "pipo/coefficient" in metrics]
    assert len(acted) == 6  # K = 2 rewards before the first
    for metrics in acted:
        z = max(-1.0, min(1.0, metrics["pipo/evidence"]))
        assert metrics["pipo/coefficient"] == pytest.approx(z if z >= 0 else 0.1 * z, rel=1e-6)
    assert {metrics["pipo/coefficient"] > 0 for metrics in acted} == {True, False}


def test_the_rate_follows_and_is_the_updates():
    record, control = toy.Record(), toy.step_control()
    toy.fit(toy.module(look_back="device"), [control, record], 6)
    factors = [metrics["pipo/rate_factor"] for metrics in record.metrics]
    assert factors[0] == 1
    assert all(a != b for a, b in pairwise(factors))
    for metrics in record.metrics:
        assert metrics["policy/lr"] == pytest.approx(1e-2 * metrics["pipo/rate_factor"], rel=1e-6)


def test_what_is_undone_leaves_the_weights_before_it_and_its_batch_untrained():
    """At a rate of 1 every step is too long: weights return bit for bit, moments stay, the rate halves."""
    keep, record = Keep(), toy.Record()
    loop = toy.pipo(window=2)
    control = toy.step_control(rejection=Rejection(most_spread=0.7, most_harm=3.0, shrink=0.5))
    module = toy.module(learning_rate=1.0, look_back="device")
    toy.fit(module, [control, keep, loop, record], 6)
    undone = [i for i, metrics in enumerate(record.metrics) if metrics["pipo/undone"]]
    assert undone == [1, 3, 5]  # the one after each has nothing to look back at, and steps
    for i in undone:
        assert same(keep.weights[i], keep.weights[i - 1])
        assert not any(name.startswith("policy/") for name in record.metrics[i])
        assert record.metrics[i]["pipo/rate_factor"] == pytest.approx(0.5 ** ((i + 1) // 2))
    assert len(loop.history) == 2
    assert list(loop.history) == [record.stats[i].mean_reward for i in (2, 4)]
    # Adam's moments are of gradients at weights that are still there.
    assert len(keep.moments) == 3
    assert all(not torch.equal(a, b) for a, b in pairwise(keep.moments))


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    def parts():
        control = toy.step_control(rejection=Rejection(most_spread=0.7, most_harm=0.5, shrink=0.5))
        loop = toy.pipo(window=2, feedback="paired")
        return toy.module(learning_rate=0.03, look_back="device"), [control, loop]

    whole, rest = toy.Record(), toy.Record()
    module, callbacks = parts()
    toy.fit(module, [*callbacks, whole], 8)
    assert any(metrics["pipo/undone"] for metrics in whole.metrics)
    for stop in (3, 5):
        folder = tmp_path / str(stop)
        module, callbacks = parts()
        saving = IterationCheckpoint(folder=str(folder), every=stop, keep=1, best=False)
        toy.fit(module, [*callbacks, saving], stop)
        module, callbacks = parts()
        rest = toy.Record()
        saving = IterationCheckpoint(folder=str(folder), every=100, keep=1, best=False)
        toy.fit(module, [*callbacks, rest, saving], 8, finished_checkpoints(folder)[-1])
        assert len(rest.metrics) == 8 - stop
        for one, other in zip(whole.weights[stop:], rest.weights, strict=True):
            assert same(one, other)
        for one, other in zip(whole.metrics[stop:], rest.metrics, strict=True):
            assert {k: v for k, v in one.items() if k.startswith(("pipo/", "policy/"))} == {
                k: v for k, v in other.items() if k.startswith(("pipo/", "policy/"))
            }
