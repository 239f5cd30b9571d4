"""Objectives against each other and against numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipo.modules.batching import micro_batches
from pipo.modules.objectives.base import Objective
from pipo.modules.objectives.cispo import CISPO
from pipo.modules.objectives.dr_grpo import DrGRPO
from pipo.modules.objectives.gspo import GSPO
from pipo.modules.objectives.rloo import RLOO
from tests import toy
from tests.unit.batches import policy_batch

LOSS = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None, "aggregation": "token-mean", "kl_coef": 0.0}
REWARDS = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.1])


def gradient(objective: Objective, batch, logprobs: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Loss and gradient on a whole batch, log-probabilities given instead of computed."""
    rows = torch.arange(len(batch))
    (micro,) = micro_batches(batch, rows, 10**9)
    values = logprobs.clone().requires_grad_()
    total = objective.denominator(batch.loss_mask()).item()
    loss = objective.loss(values * micro.sampled, micro, total).value
    loss.backward()
    assert values.grad is not None
    return loss.item(), values.grad


@pytest.fixture
def batch():
    made = policy_batch(prompts=3, group_size=4, width=5)
    return made


@pytest.fixture
def logprobs(batch):
    noise = 0.3 * torch.randn(batch.old_logprobs.shape, generator=torch.Generator().manual_seed(1))
    return (batch.old_logprobs + noise) * batch.response_mask


def test_rloo_by_hand():
    # Reward 1 against others' mean 0; reward 0 against others' mean 1/3; equal rewards teach nothing.
    expected = torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3, 0.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(RLOO(**LOSS).advantages(REWARDS, 4), expected, rtol=1e-6, atol=0)


def test_dr_grpo_by_hand(batch):
    # Mean of the first group is 1/4.
    objective = DrGRPO(max_response_tokens=10, **LOSS)
    expected = torch.tensor([0.75, -0.25, -0.25, -0.25, 0.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(objective.advantages(REWARDS, 4), expected, rtol=1e-6, atol=0)
    # 12 responses, each token sum divided by 10, whatever the lengths.
    assert objective.denominator(batch.response_mask).item() == 12 * 10
    with pytest.raises(ValueError, match="aggregation must be token-mean"):
        DrGRPO(max_response_tokens=10, **{**LOSS, "aggregation": "seq-mean-token-mean"})


def test_cispo_keeps_the_gradient_of_every_token(batch):
    """D loss / d logprob = -clip(ratio) * A / tokens, also where PPO's clip would remove it."""
    objective = CISPO(advantage_eps=1e-6, **{**LOSS, "clip_low": 1.0, "clip_high": 0.28})
    logprobs = (batch.old_logprobs + 1.0) * batch.response_mask  # ratio e, clipped to 1.28
    _, grad = gradient(objective, batch, logprobs)
    expected = -1.28 * batch.advantages / batch.response_mask.sum()
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-9)


def test_gspo_with_one_token_responses_is_grpo():
    batch = policy_batch(prompts=3, group_size=4, width=1)
    logprobs = batch.old_logprobs + 0.3 * torch.randn(12, 1, generator=torch.Generator().manual_seed(2))
    options = {**LOSS, "aggregation": "seq-mean-token-mean", "advantage_eps": 1e-6}
    results = [gradient(kind(**options), batch, logprobs) for kind in (GSPO, type(toy.grpo()))]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=0)


def test_gspo_clips_whole_responses(batch, logprobs):
    objective = GSPO(advantage_eps=1e-6, **{**LOSS, "clip_low": 3e-4, "clip_high": 4e-4})
    _, grad = gradient(objective, batch, logprobs)
    mean = ((logprobs - batch.old_logprobs) * batch.response_mask).sum(1) / batch.response_mask.sum(1)
    ratio, advantage = mean.exp(), batch.advantages[:, 0]
    removed = ((advantage > 0) & (ratio > 1 + 4e-4)) | ((advantage < 0) & (ratio < 1 - 3e-4))
    assert 0 < int(removed.sum()) < len(batch)
    silent = (grad == 0).all(dim=1)
    assert torch.equal(silent, removed | (advantage == 0))


def test_dapo_with_grpos_numbers_is_grpo(compose_config):
    """The two files differ in numbers alone, so with GRPO's numbers the composed objectives are equal."""
    grpo = compose_config("algo=grpo", "output_dir=x").algo
    same = [f"algo.objective.{key}={grpo.objective[key]}" for key in ("clip_high", "dual_clip", "kl_coef")]
    dapo = compose_config("algo=dapo", "algo.dynamic_sampling_rounds=0", *same, "output_dir=x").algo
    assert dapo.objective == grpo.objective
    assert {k for k in grpo if grpo[k] != dapo[k]} == {"name"}


def test_a_padded_token_gets_no_gradient(batch, logprobs):
    for objective in (
        toy.grpo(),
        GSPO(advantage_eps=1e-6, **LOSS),
        CISPO(advantage_eps=1e-6, **{**LOSS, "clip_low": 1.0}),
        DrGRPO(max_response_tokens=9, **LOSS),
        RLOO(**LOSS),
    ):
        _, grad = gradient(objective, batch, logprobs)
        assert (grad[~batch.response_mask] == 0).all()
        assert (grad != 0).any()


def test_the_order_of_groups_does_not_matter(batch, logprobs):
    """Swapping whole groups permutes the gradient and leaves the loss."""
    rows = torch.tensor([8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7])
    names = ("response_ids", "response_mask", "sampled", "old_logprobs", "advantages", "attribution")
    moved = replace(
        batch,
        prompt_ids=tuple(batch.prompt_ids[i] for i in (2, 0, 1)),
        **{name: getattr(batch, name)[rows] for name in names},
    )
    loss, grad = gradient(toy.grpo(), batch, logprobs)
    same_loss, same_grad = gradient(toy.grpo(), moved, logprobs[rows])
    assert same_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(same_grad, grad[rows], rtol=1e-6, atol=0)


def test_kl_penalty_adds_its_share(batch, logprobs):
    reference = batch.old_logprobs - 0.2 * batch.response_mask
    with_kl = replace(batch, ref_logprobs=reference, kl_coef=0.5)
    loss, _ = gradient(toy.grpo(), batch, logprobs)
    more, _ = gradient(toy.grpo(kl_coef=0.5), with_kl, logprobs)
    d = (reference - logprobs)[batch.response_mask]
    penalty = (d.exp() - d - 1).mean().item()
    assert more - loss == pytest.approx(0.5 * penalty, rel=1e-4)
