"""One precision for sampling, scoring, updates and evaluation, whoever asks."""

from __future__ import annotations

import pytest
import torch

from pipo.callbacks.base import RolloutCallback
from pipo.modules.critic import Critic
from pipo.modules.functional.divergence import DistillationForm
from pipo.rollout.local import LocalEngine
from tests import toy
from tests.conftest import packed

IDS = torch.randint(2, 48, (3, 12), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(12).expand(3, -1) >= 4


def policy(compute_dtype: torch.dtype | None):
    made = toy.make_policy()
    made.compute_dtype = compute_dtype
    return made


def test_log_probabilities_are_those_of_the_model_under_autocast():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = toy.make_policy().model(input_ids=IDS).logits[:, 3:-1].float() / 0.7
    expected = logits.log_softmax(-1).gather(-1, IDS[:, 4:, None]).view(-1)
    with torch.no_grad():
        got, exact = policy(torch.bfloat16)(packed(IDS, MASK), 0.7), policy(None)(packed(IDS, MASK), 0.7)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert (got - exact).abs().max() > 1e-3


def test_sampling_computes_in_the_same_precision_outside_a_training_step():
    """bfloat16 moves these log-probabilities by 1e-2 and more; sampled ones lie nearer to their own kind."""
    engine = LocalEngine(policy(torch.bfloat16), toy.ENGINE)
    prompts = [tuple(row) for row in IDS[:, :4].tolist()]
    drawn = engine.generate(prompts, 8, toy.sampling(stop_token_ids=frozenset({99})), 3)
    ids = torch.cat([IDS[:, :4].repeat_interleave(8, 0), drawn.response_ids], 1)
    mask = torch.arange(9).expand(24, -1) >= 4
    with torch.no_grad():
        own, exact = (policy(dtype)(packed(ids, mask), 1.0) for dtype in (torch.bfloat16, None))
    sampled = drawn.logprobs.view(-1)
    assert (sampled - own).abs().mean() < 0.5 * (sampled - exact).abs().mean()


@pytest.mark.parametrize("blockwise", [False, True])
def test_gradients_in_bfloat16_are_those_of_float32_but_for_rounding(monkeypatch, blockwise):
    """Also where the head's logits are computed block by block, again in the backward pass."""
    if blockwise:
        monkeypatch.setattr("pipo.modules.logprobs.BLOCK_LOGITS", 1)
    gradients = []
    for dtype in (torch.bfloat16, None):
        model = policy(dtype)
        model(packed(IDS, MASK), 1.0).mean().backward()
        gradients.append(torch.cat([p.grad.view(-1) for p in model.parameters()]))
    rounded, exact = gradients
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


def test_a_distilled_gradient_in_bfloat16_too():
    form = DistillationForm(kind="reverse-kl", alpha=None, top_k=None)
    gradients = []
    for dtype in (torch.bfloat16, None):
        model, teacher = policy(dtype), toy.make_policy(seed=3)
        teacher.compute_dtype = dtype
        target = teacher.distillation_target(packed(IDS, MASK), form)
        model(packed(IDS, MASK), 1.0, target).mean().backward()
        gradients.append(torch.cat([p.grad.view(-1) for p in model.parameters()]))
    rounded, exact = gradients
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


def test_values_are_float32_products_of_a_backbone_in_bfloat16():
    critic, exact = Critic(policy(torch.bfloat16)), Critic(policy(None))
    for each in (critic, exact):
        torch.nn.init.constant_(each.head.weight, 0.1)
    with torch.no_grad():
        got, expected = critic(packed(IDS, MASK)), exact(packed(IDS, MASK))
    assert got.dtype == torch.float32
    assert 0 < (got - expected).abs().max() < 0.1


class UpdateTwice(RolloutCallback):
    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        module.policy_update(batch, prefix="first")
        module.policy_update(batch, prefix="second")


def test_the_second_update_of_an_iteration_sees_what_the_first_did():
    """Casts of weights from before a step must not serve the forward passes after it.

    Held over the whole training step, autocast keeps them: every later update would find the ratio at 1 and
    the policy exactly where it was sampled.
    """
    record = toy.Record()
    toy.fit(toy.module(compute_dtype=torch.bfloat16), [UpdateTwice(), record], 1)
    (metrics,) = record.metrics
    assert metrics["second/kl_old"] > 10 * metrics["first/kl_old"]
    assert metrics["second/kl_old"] > 1e-3
