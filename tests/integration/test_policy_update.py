"""``policy_update``: the same step however the batch is cut, and exactly the objective's gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipo.distributed.metrics import IterationMetrics
from pipo.modules.hooks import RolloutCallback
from tests import toy
from tests.policies import packed
from tests.unit.batches import policy_batch


def updated(batch, *, tokens: int = 64, mini_batch: int = 100, aggregation: str = "token-mean"):
    """Weights, gradient and metrics of one ``policy_update`` on ``batch`` inside a training step.

    The gradient is read off AdamW's first moment, which is (1 - 0.9) times it after the first step.
    """

    class Once(RolloutCallback):
        weights: dict[str, torch.Tensor]
        gradient: dict[str, torch.Tensor]
        metrics: dict[str, float]

        def on_rollouts_ready(self, trainer, module, rollouts, ignored, stats):
            iteration, module.metrics = module.metrics, IterationMetrics()
            module.policy_update(batch, prefix="check")
            self.weights = {k: v.clone() for k, v in module.policy.state_dict().items()}
            state = trainer.optimizers[0].state
            self.gradient = {
                name: state[p]["exp_avg"].clone() / 0.1 for name, p in module.policy.named_parameters()
            }
            self.metrics = module.metrics.reduce(lambda t: t)
            module.metrics = iteration

    once = Once()
    model = toy.module(toy.grpo(aggregation=aggregation), mini_batch=mini_batch, tokens=tokens)
    toy.fit(model, [once], 1)
    return once


def assert_same_gradient(first, second):
    """Within rounding of float32; the gradient's global norm is up to 1 after clipping."""
    for name in first.gradient:
        torch.testing.assert_close(first.gradient[name], second.gradient[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
def test_cutting_into_micro_batches_changes_nothing(aggregation):
    batch = policy_batch(prompts=4, group_size=4, width=6)
    whole = updated(batch, tokens=10_000, aggregation=aggregation)
    parts = updated(batch, tokens=12, aggregation=aggregation)
    assert_same_gradient(whole, parts)
    assert whole.metrics.keys() == parts.metrics.keys()
    for name, value in whole.metrics.items():
        assert parts.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_rows_without_attribution_are_left_out_of_the_work_but_not_of_the_denominator():
    """A vanishing KL weight makes every row contribute; the step is the same as with the rows left out."""
    batch = policy_batch(prompts=4, group_size=4, width=6)
    zero = (batch.advantages == 0).all(dim=1)
    assert 0 < int(zero.sum()) < len(batch)
    skipped = updated(batch)
    assert skipped.metrics["check/trained_rows"] == pytest.approx(1 - zero.float().mean().item())
    everything = replace(batch, ref_logprobs=batch.old_logprobs, kl_coef=1e-12)
    worked = updated(everything)
    assert worked.metrics["check/trained_rows"] == 1
    assert_same_gradient(skipped, worked)
    assert skipped.metrics["check/loss"] == pytest.approx(worked.metrics["check/loss"], rel=1e-5)


def test_the_loss_is_the_objectives_over_the_whole_mini_batch():
    batch = policy_batch(prompts=4, group_size=4, width=6)
    metrics = updated(batch, tokens=12).metrics
    policy = toy.make_policy()
    expected = 0.0
    for i in range(len(batch)):
        response = batch.response_ids[i][batch.response_mask[i]]
        prompt = torch.tensor(batch.prompt_ids[i // 4])
        ids = torch.cat([prompt, response])[None]
        mask = torch.arange(ids.shape[1])[None] >= len(prompt)
        with torch.no_grad():
            ratio = (policy(packed(ids, mask), 1.0) - batch.old_logprobs[i][batch.response_mask[i]]).exp()
        a = batch.advantages[i, 0]
        loss = torch.maximum(-ratio * a, -ratio.clamp(0.8, 1.2) * a)
        if a < 0:
            loss = torch.minimum(loss, -3.0 * a)
        expected += loss.sum().item()
    expected /= int(batch.response_mask.sum())
    assert metrics["check/loss"] == pytest.approx(expected, rel=1e-5)


def test_a_mini_batch_is_one_optimiser_step():
    batch = policy_batch(prompts=4, group_size=4, width=6)
    one, two = (updated(batch, mini_batch=size).weights for size in (16, 8))
    largest = max((one[k] - two[k]).abs().max().item() for k in one)
    # Two steps of 1e-2 against one: weights end up to 1e-2 further away.
    assert 1e-3 < largest < 3e-2


def test_a_batch_without_any_signal_still_steps_with_a_zero_gradient():
    """The baseline's Adam keeps its momentum whether or not zero rows are computed."""
    batch = policy_batch(prompts=2, group_size=4, width=3)
    silent = replace(batch, advantages=torch.zeros_like(batch.advantages))
    once = updated(silent)
    assert once.metrics["check/grad_norm"] == 0
    assert once.metrics["check/trained_rows"] == 0
    # Zero gradient: only decoupled weight decay acts, w * (1 - lr * decay) = w * (1 - 1e-4).
    for name, start in toy.make_policy().state_dict().items():
        torch.testing.assert_close(once.weights[name], start * (1 - 1e-4), rtol=1e-6, atol=1e-9)
