"""Methods beyond the paper's own, against numbers worked by hand from the papers that they come from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipo.functional.advantages import (
    difficulty_weights,
    group_relative_advantages,
    length_weighted_centred,
    likelihood_advantages,
    penalised_returns,
)
from pipo.functional.divergence import binary_divergence, kl_k2
from pipo.functional.reward_history import UNVISITED, RewardHistory, smoothed_advantages
from pipo.functional.surrogate import probability_clip_range
from pipo.functional.value_tracking import Belief, forgetting, mean_change, sampling_weights
from pipo.modules.objectives.base import CriticConfig, MicroBatch, Objective
from pipo.modules.objectives.dcpo import DCPO
from pipo.modules.objectives.dppo import DPPO
from pipo.modules.objectives.gmpo import GMPO
from pipo.modules.objectives.grpo import GRPO
from pipo.modules.objectives.ha_dw import HADW
from pipo.modules.objectives.opo import OPO
from pipo.modules.objectives.ppo import PPO
from pipo.modules.objectives.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from pipo.modules.objectives.sapo import SAPO
from pipo.modules.objectives.spo import SPO
from pipo.records.batches import Annotations, Recalled
from pipo.records.problems import Example, Reward
from pipo.records.rollouts import Completions, PromptBatch, Rollouts
from pipo.rollout.datamodule import IterationDataset
from tests.policies import packed

LOSS: dict[str, Any] = {"aggregation": "token-mean", "kl_coef": 0.0}
CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None, **LOSS}


def f64(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def micro_batch(old: Tensor, advantages: list[float], mask: Tensor | None = None) -> MicroBatch:
    """Rows with these old log-probabilities; one advantage per row."""
    mask = torch.ones_like(old, dtype=torch.bool) if mask is None else mask
    ids = torch.zeros(len(old), old.shape[1] + 1, dtype=torch.int64)
    return MicroBatch(
        rows=packed(ids, torch.nn.functional.pad(mask, (1, 0))),
        sampled=mask,
        old_logprobs=old,
        advantages=f64(advantages)[:, None] * mask,
        ref_logprobs=None,
        kl_coef=0.0,
        teacher_rows=None,
        value_targets=None,
    )


def loss_and_gradient(
    objective: Objective, old: Tensor, gaps: Tensor, advantages: list[float], mask: Tensor | None = None
) -> tuple[float, Tensor]:
    """Of rows whose log-probabilities have moved by so much; the gradient is by log-probability."""
    micro = micro_batch(old, advantages, mask)
    logprobs = (old + gaps).requires_grad_()
    loss = objective.loss(logprobs, micro, objective.denominator(micro.sampled).item())
    (grad,) = torch.autograd.grad(loss.value, logprobs)
    return loss.value.item(), grad


def rollouts(rewards: list[float], lengths: list[int], group_size: int) -> Rollouts:
    """Responses of these lengths with these verifier rewards; the problem of group i is called i."""
    width, size = max(lengths), len(rewards) // group_size
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    scores = torch.tensor(rewards)
    examples = tuple(Example(uid=str(i), question="", answer="") for i in range(size))
    return Rollouts(
        prompts=PromptBatch(examples=examples, prompt_ids=((2, 3),) * size),
        completions=Completions(
            response_ids=5 * mask.long(),
            response_mask=mask,
            sampled=mask,
            logprobs=-0.5 * mask.float(),
            finished=mask.any(dim=1),
        ),
        texts=("",) * len(rewards),
        verdicts=tuple(Reward(score=score) for score in rewards),
        rewards=scores,
        shaping=torch.zeros_like(scores),
        group_size=group_size,
        reward_sum=sum(rewards),
        reward_count=len(rewards),
        varied_groups=0,
    )


def annotated(of: Rollouts, **given: Tensor) -> Annotations:
    old = of.completions.logprobs
    return Annotations(
        old_logprobs=old, importance=None, ref_logprobs=given.get("ref_logprobs"), values=None, teacher=None
    )


# ---------------------------------------------------------------------- GMPO, arXiv 2507.20673


def gmpo(**changes: Any) -> GMPO:
    """The paper's range: logarithms of ratios clipped at +-0.4."""
    range_ = {"clip_low": 1 - math.exp(-0.4), "clip_high": math.exp(0.4) - 1}
    options = {**CLIP, **range_, "aggregation": "seq-mean-token-mean", "advantage_eps": 1e-6}
    return GMPO(**{**options, **changes})


@pytest.mark.parametrize(
    ("advantage", "kept", "silent"),
    [
        # Equation 4 with logarithms .2, .6, -.7. A > 0 is bounded above: .2, .4, -.7, of mean -.1 / 3.
        (2.0, -0.1 / 3, 1),
        # A < 0 is bounded below: .2, .6, -.4, of mean .4 / 3.
        (-1.0, 0.4 / 3, 2),
    ],
)
def test_gmpo_takes_the_geometric_mean_of_clipped_ratios(advantage, kept, silent):
    old, gaps = f64([[-3.0, -3.0, -3.0]]), f64([[0.2, 0.6, -0.7]])
    loss, grad = loss_and_gradient(gmpo(), old, gaps, [advantage])
    assert loss == pytest.approx(-advantage * math.exp(kept), rel=1e-12)
    # Equation 6: each token's gradient is the whole response's ratio times A / |y|; a clipped one has none.
    expected = torch.full((1, 3), -advantage * math.exp(kept) / 3, dtype=torch.float64)
    expected[0, silent] = 0
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=0)


def test_gmpo_of_one_token_is_grpo_of_one_token_with_the_same_range():
    """The mean of one number; the range acts in logarithms or on the ratio alike."""
    old, gaps = f64([[-2.0]] * 4), f64([[0.3], [0.7], [-0.2], [-0.9]])
    for advantages in ([1.0, 1.0, 1.0, 1.0], [-1.0, -2.0, -1.0, -2.0]):
        options = {**vars_of(gmpo()), "advantage_eps": 1e-6}
        mine, theirs = (loss_and_gradient(kind(**options), old, gaps, advantages) for kind in (GMPO, GRPO))
        assert mine[0] == pytest.approx(theirs[0], rel=1e-12)
        torch.testing.assert_close(mine[1], theirs[1], rtol=1e-12, atol=0)


def vars_of(objective: Objective) -> dict[str, Any]:
    clip = objective.clip
    return {
        "clip_low": clip.low,
        "clip_high": clip.high,
        "dual_clip": clip.dual,
        "aggregation": objective.aggregation,
        "kl_coef": objective.kl_coef,
    }


def test_gmpo_leaves_padding_and_inserted_tokens_out():
    """The mean is over the two sampled tokens, whatever stands on the third."""
    mask = torch.tensor([[True, False, True]])
    old, gaps = f64([[-1.0, -9.0, -1.0]]), f64([[0.1, 5.0, 0.3]])
    loss, grad = loss_and_gradient(gmpo(), old, gaps, [1.0], mask)
    assert loss == pytest.approx(-math.exp(0.2), rel=1e-12)
    assert grad[0, 1] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aggregation": "token-mean"}, "aggregation must be seq-mean-token-mean"),
        ({"dual_clip": 3.0}, "dual_clip must be null"),
    ],
)
def test_gmpo_refuses_what_it_has_no_use_for(change, said):
    with pytest.raises(ValueError, match=said):
        gmpo(**change)


# ---------------------------------------------------------------------- SAPO, arXiv 2511.20347


def sapo(**changes: Any) -> SAPO:
    options = {"temperature_positive": 1.0, "temperature_negative": 1.05, "advantage_eps": 1e-6, **LOSS}
    return SAPO(**{**options, **changes})


def test_sapo_gates_every_token_and_has_another_temperature_for_negative_advantages():
    """Ratios 1, 2 and 1/2. f(2) at tau = 1 is 4 sigmoid(1); its slope 4 p (1 - p), times nu for log pi."""
    old, gaps = f64([[-2.0, -2.0, -2.0]] * 2), f64([[0.0, math.log(2), -math.log(2)]] * 2)
    loss, grad = loss_and_gradient(sapo(), old, gaps, [1.0, -2.0])

    def p(tau: float, nu: float) -> float:
        return 1 / (1 + math.exp(-tau * (nu - 1)))

    gates = [[4 / tau * p(tau, nu) for nu in (1, 2, 0.5)] for tau in (1.0, 1.05)]
    assert gates[0] == pytest.approx([2.0, 4 * 0.7310585786300049, 4 * 0.3775406687981454], rel=1e-12)
    assert loss == pytest.approx((-sum(gates[0]) + 2 * sum(gates[1])) / 6, rel=1e-12)
    slopes = [
        [-a * 4 * p(tau, nu) * (1 - p(tau, nu)) * nu / 6 for nu in (1, 2, 0.5)]
        for tau, a in ((1.0, 1.0), (1.05, -2.0))
    ]
    torch.testing.assert_close(grad, f64(slopes), rtol=1e-12, atol=0)


def test_sapo_on_policy_is_the_plain_policy_gradient():
    old = f64([[-2.0, -1.0], [-0.5, -3.0]])
    _, grad = loss_and_gradient(sapo(), old, torch.zeros_like(old), [1.0, -3.0])
    torch.testing.assert_close(grad, f64([[-1.0, -1.0], [3.0, 3.0]]) / 4, rtol=1e-12, atol=0)


def test_sapo_counts_tokens_whose_gate_is_more_than_half_shut():
    """4 p (1 - p) = 1/2 where tau (nu - 1) = log(3 + 2 sqrt 2) = 1.7627, so between nu = 2.7 and 2.8."""
    ratios = f64([[2.7, 2.8, 1.0]])
    clipped = sapo().clipped(ratios, micro_batch(-ratios, [1.0]))
    assert clipped.tolist() == [[False, True, False]]
    assert not sapo().clipped(ratios, micro_batch(-ratios, [0.0])).any()


@pytest.mark.parametrize("name", ["temperature_positive", "temperature_negative"])
def test_sapo_refuses_a_temperature_that_is_none(name):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        sapo(**{name: 0.0})


# ---------------------------------------------------------------------- OPO, arXiv 2505.23585


def test_opo_weighs_the_baseline_by_length():
    """Rewards 1, 0, 0 of lengths 2, 4, 4: the baseline is 2 / 10. Equal rewards or no tokens: nothing."""
    rewards = f64([1, 0, 0, 0.1, 0.1, 0.1, 1, 0, 1])
    lengths = torch.tensor([2, 4, 4, 7, 5, 3, 0, 0, 0])
    expected = f64([0.8, -0.2, -0.2, 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(length_weighted_centred(rewards, lengths, 3), expected, rtol=1e-12, atol=0)


def test_opo_has_the_least_variance_where_the_gradient_grows_as_the_length():
    """The variance of (r - b) g with E[g^2] = n has its minimum there: its derivative is zero."""
    rewards, lengths = f64([1.0, 0.0, 0.5, 0.0]), torch.tensor([3, 1, 6, 2])
    baseline = (rewards - length_weighted_centred(rewards, lengths, 4))[0]

    def second_moment(b: Tensor) -> Tensor:
        return ((rewards - b).square() * lengths).mean()

    b = baseline.clone().requires_grad_()
    (slope,) = torch.autograd.grad(second_moment(b), b)
    assert slope.item() == pytest.approx(0, abs=1e-12)


def test_opo_refuses_means_over_responses():
    with pytest.raises(ValueError, match="aggregation must be token-mean"):
        OPO(**{**CLIP, "aggregation": "seq-mean-token-mean"})


# ---------------------------------------------------------------------- MaxRL, arXiv 2602.02710


def test_maxrl_by_hand():
    """K of 4 right: (4 - K) / K and -1. None right: nothing. A reward term moves the numerator alone."""
    rewards = f64([1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    expected = f64([3, -1, -1, -1, 1, 1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(likelihood_advantages(rewards, rewards, 4), expected, rtol=1e-12, atol=0)
    penalty = f64([0, 0, 0, -1])  # mean of what is trained on: (1 - 1) / 4 = 0, of successes: 1 / 4
    got = likelihood_advantages(rewards[:4] + penalty, rewards[:4], 4)
    torch.testing.assert_close(got, f64([4, 0, 0, -4]), rtol=1e-12, atol=0)
    assert likelihood_advantages(f64([0, -1]), f64([0, -1]), 2).tolist() == [0, 0]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_maxrl_has_on_average_the_gradient_of_the_first_terms_of_log_p(p):
    """Of one parameter p with score 1 / p for a success, -1 / (1 - p) else, over all groups of four.

    grad log p = sum_k (1 - p)^(k - 1); theorem 5 says that a group of G gives its first G - 1 terms.
    """
    size, mean = 4, 0.0
    for right in range(size + 1):
        rewards = f64([1.0] * right + [0.0] * (size - right))
        score = rewards / p - (1 - rewards) / (1 - p)
        chance = math.comb(size, right) * p**right * (1 - p) ** (size - right)
        mean += chance * (likelihood_advantages(rewards, rewards, size) * score).mean().item()
    assert mean == pytest.approx(sum((1 - p) ** (k - 1) for k in range(1, size)), rel=1e-12)


# ---------------------------------------------------------------------- REINFORCE++, arXiv 2501.03262


def test_reinforce_plus_plus_subtracts_the_penalties_that_are_still_to_come():
    """Equation 4 with r = 1 and penalties .1, .2, .3: 1 - .6, 1 - .5, 1 - .3; an inserted token has none."""
    mask = torch.tensor([[True, True, True, False], [True, False, True, False]])
    penalties = f64([[0.1, 0.2, 0.3, 9.0], [0.1, 9.0, 0.3, 9.0]])
    got = penalised_returns(f64([1.0, 0.0]), penalties, mask)
    torch.testing.assert_close(got, f64([[0.4, 0.5, 0.7, 0], [-0.4, 0, -0.3, 0]]), rtol=1e-12, atol=0)


def test_reinforce_plus_plus_normalises_over_the_batch():
    """Rewards 1 and 0 of 1 and 3 tokens: mean 1/4 and unbiased variance 1/4 over four tokens (equation 5)."""
    made = rollouts([1.0, 0.0], [1, 3], group_size=1)
    objective = ReinforcePlusPlus(kl_reward_coef=0.0, **CLIP)
    batch = objective.prepare(made, annotated(made), lambda value: value)
    expected = torch.tensor([[1.5, 0, 0], [-0.5, -0.5, -0.5]])
    torch.testing.assert_close(batch.advantages, expected, rtol=1e-6, atol=0)
    assert torch.equal(batch.attribution, batch.advantages)
    # With a twin rank the moments double: the same mean, and a variance of 2 x 3/4 over 7.
    twin = objective.prepare(made, annotated(made), lambda value: 2 * value)
    torch.testing.assert_close(twin.advantages, expected * (0.25 / (1.5 / 7)) ** 0.5, rtol=1e-6, atol=0)


def test_reinforce_plus_plus_has_the_penalty_in_the_reward():
    """The log-ratio is -.5 + 1.5 on each token, times .1; the returns are then whitened."""
    made = rollouts([1.0, 0.0], [1, 3], group_size=1)
    reference = -1.5 * made.completions.sampled.float()
    objective = ReinforcePlusPlus(kl_reward_coef=0.1, **CLIP)
    assert objective.needs_reference
    batch = objective.prepare(made, annotated(made, ref_logprobs=reference), lambda value: value)
    returns = torch.tensor([0.9, -0.3, -0.2, -0.1])
    expected = (returns - returns.mean()) / returns.std()
    torch.testing.assert_close(batch.advantages[batch.sampled], expected, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="kl_reward_coef must be >= 0"):
        ReinforcePlusPlus(kl_reward_coef=-0.1, **CLIP)


def test_reinforce_plus_plus_baseline_centres_in_the_group_and_normalises_over_the_batch():
    """Equations 6 and 7. Centred: .5, -.5, 0, 0 on 1, 3, 2, 2 tokens, of mean -1/8.

    That moves the group without differences as well. Attribution is a share of the group, and so 0 there.
    """
    made = rollouts([1.0, 0.0, 1.0, 1.0], [1, 3, 2, 2], group_size=2)
    batch = ReinforcePlusPlusBaseline(**CLIP).prepare(made, annotated(made), lambda value: value)
    centred = torch.tensor([0.5, -0.5, -0.5, -0.5, 0, 0, 0, 0])
    expected = (centred + 1 / 8) / centred.std()
    torch.testing.assert_close(batch.advantages[batch.sampled], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(batch.attribution[:, 0], torch.tensor([1.0, -1.0, 0.0, 0.0]))


@pytest.mark.parametrize("tokens", [0, 1])
def test_reinforce_plus_plus_is_silent_where_nothing_is_left_to_normalise_by(tokens):
    """A group that stands in for none, where dynamic sampling has found none that varies, has no token."""
    made = rollouts([0.0, 0.0], [0, tokens], group_size=2)
    for objective in (ReinforcePlusPlus(kl_reward_coef=0.0, **CLIP), ReinforcePlusPlusBaseline(**CLIP)):
        batch = objective.prepare(made, annotated(made), lambda value: value)
        assert not batch.advantages.any()
        assert not batch.attribution.any()


def test_ppo_is_silent_there_too():
    made = rollouts([0.0, 0.0], [0, 0], group_size=2)
    critic = CriticConfig(learning_rate_scale=1.0, value_clip=0.2, warmup_iterations=0)
    ppo = PPO(kl_reward_coef=0.0, gamma=1.0, gae_lambda=1.0, critic=critic, **CLIP)
    values = torch.zeros_like(made.completions.logprobs)
    batch = ppo.prepare(made, replace(annotated(made), values=values), lambda value: value)
    assert not batch.advantages.any()
    assert batch.value_targets is not None
    assert not batch.value_targets.returns.any()


def test_k2_and_its_gradient():
    """Equation 8: half the square, and the log-ratio as its slope."""
    logprobs, reference = f64([[-1.0, -2.0]]).requires_grad_(), f64([[-1.5, -1.0]])
    value = kl_k2(logprobs, reference)
    torch.testing.assert_close(value, f64([[0.125, 0.5]]), rtol=1e-12, atol=0)
    (grad,) = torch.autograd.grad(value.sum(), logprobs)
    torch.testing.assert_close(grad, f64([[0.5, -1.0]]), rtol=1e-12, atol=0)
    options = {**CLIP, "kl_coef": 0.1, "kl_estimator": "k2"}
    micro = micro_batch(logprobs.detach(), [0.0])
    assert torch.equal(ReinforcePlusPlusBaseline(**options).penalty(logprobs, reference, micro), value)


# ---------------------------------------------------------------------- DPPO, arXiv 2602.04879


def dppo(**changes: Any) -> DPPO:
    return DPPO(**{"divergence": "tv", "threshold": 0.15, "ratio_cap": 5.0, **LOSS, **changes})


def test_the_divergence_of_the_papers_two_tokens():
    """Section 4.2: a rare one from 1e-4 to 1e-2, ratio 100, and a frequent one from .99 to .80, ratio .81."""
    old, new = f64([1e-4, 0.99]).log(), f64([1e-2, 0.80]).log()
    tv = binary_divergence(new, old, "tv")
    torch.testing.assert_close(tv, f64([0.0099, 0.19]), rtol=1e-10, atol=0)
    kl = binary_divergence(new, old, "kl")
    expected = [
        1e-4 * math.log(0.01) + 0.9999 * math.log(0.9999 / 0.99),
        0.99 * math.log(0.99 / 0.8) + 0.01 * math.log(0.01 / 0.2),
    ]
    torch.testing.assert_close(kl, f64(expected), rtol=1e-9, atol=0)
    certain = torch.zeros(1)  # float32 log-probabilities of exactly 1
    assert torch.isfinite(binary_divergence(certain - 1e-3, certain, "kl")).all()


def test_dppo_leaves_out_what_moves_probability_and_keeps_rare_tokens():
    """The rare token keeps its gradient, with a ratio of 100 cut to 5, where a clip range would end it.

    The frequent one has none when it is pushed further down, and all of it when it is pulled back up.
    """
    old, new = f64([[1e-4, 0.99]]).log(), f64([[1e-2, 0.80]]).log()
    _, up = loss_and_gradient(dppo(), old, new - old, [2.0])
    torch.testing.assert_close(up, f64([[-2 * 5, -2 * 0.8 / 0.99]]) / 2, rtol=1e-10, atol=0)
    _, down = loss_and_gradient(dppo(), old, new - old, [-2.0])
    torch.testing.assert_close(down, f64([[2 * 5, 0.0]]) / 2, rtol=1e-10, atol=0)
    _, uncut = loss_and_gradient(dppo(ratio_cap=None), old, new - old, [2.0])
    assert uncut[0, 0].item() == pytest.approx(-100.0, rel=1e-10)
    # KL(.99, .80) is .18, KL(1e-4, 1e-2) is .0094: beyond and within the paper's .05.
    _, kl = loss_and_gradient(dppo(divergence="kl", threshold=0.05), old, new - old, [-2.0])
    assert (kl == 0).tolist() == [[False, True]]
    micro = micro_batch(old, [-2.0])
    assert dppo().clipped((new - old).exp(), micro).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threshold": 0.0}, "threshold must be positive"),
        ({"threshold": 1.0}, "threshold must be below 1 with divergence=tv"),
        ({"ratio_cap": 0.5}, "ratio_cap must be >= 1 or null"),
    ],
)
def test_dppo_refuses(change, said):
    with pytest.raises(ValueError, match=said):
        dppo(**change)


# ---------------------------------------------------------------------- HA-DW, arXiv 2601.08521


def ha_dw(**changes: Any) -> HADW:
    return HADW(**{**CLIP, "advantage_eps": 1e-6, "window": 2, "scale": 1.3, **changes})


def compared(objective: HADW, rewards: list[float], ranks: int = 1) -> Tensor:
    """Advantages of groups of four; ``ranks`` of them have the same batch."""
    made = rollouts(rewards, [1] * len(rewards), group_size=4)
    return objective.compare(made.rewards, made, lambda value: ranks * value)


HARD, EASY = [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]


def test_difficulty_weights_by_hand():
    """Equation 16, anchor 1/2: 1.3 e^(1/4) for what is right in the hard group or wrong in the easy one."""
    rewards = f64([*HARD, *EASY])
    advantages = group_relative_advantages(rewards, 4, 0.0)
    up, down = 1.3 * math.exp(0.25), 1.3 * math.exp(-0.25)
    expected = f64([up, down, down, down, down, down, down, up])
    got = difficulty_weights(advantages, rewards, 4, 0.5, 1.3)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_the_anchor_is_the_mean_of_the_last_batches_before_this_one():
    """Appendix F with h = 2; batch means 1/4, 3/4, 1/2, 1/4. The first has no past and is its own anchor."""
    objective = ha_dw()
    batches = [HARD + HARD, EASY + EASY, HARD + EASY, HARD + HARD]
    for rewards, anchor in zip(batches, (0.25, 0.25, 0.5, 0.625), strict=True):
        got = compared(objective, rewards)
        plain = group_relative_advantages(torch.tensor(rewards), 4, 1e-6)
        weights = difficulty_weights(plain, torch.tensor(rewards), 4, anchor, 1.3)
        torch.testing.assert_close(got, plain * weights)
    assert objective.state_dict() == {"history": [0.5, 0.25]}
    # Another one that takes this up goes on as if it had seen the batches; two ranks have the same means.
    other = ha_dw()
    other.load_state_dict(objective.state_dict())
    assert torch.equal(compared(other, HARD + EASY, ranks=2), compared(objective, HARD + EASY))


@pytest.mark.parametrize(
    ("change", "said"), [({"window": 0}, "window must be >= 1"), ({"scale": 0.0}, "scale must be positive")]
)
def test_ha_dw_refuses(change, said):
    with pytest.raises(ValueError, match=said):
        ha_dw(**change)


# ---------------------------------------------------------------------- DCPO, arXiv 2509.02333


def dcpo(**changes: Any) -> DCPO:
    options = {"epsilon_low": 0.16, "epsilon_high": 0.2, "ratio_cap": 10.0, **LOSS}
    return DCPO(**{**options, **changes})


def test_dcpo_clips_at_the_papers_points():
    """Section A.6: the range meets GRPO's at (1, .8) and (1 / 1.2, 1.2); a rare token has (.5, 10)."""
    lower, upper = probability_clip_range(f64([1.0, 1 / 1.2, 1e-4]).log(), 0.16, 0.2, 10.0)
    assert lower[0].item() == pytest.approx(0.8, rel=1e-12)
    assert upper[1].item() == pytest.approx(1.2, rel=1e-12)
    assert (lower[2].item(), upper[2].item()) == (0.5, 10.0)
    # The bound that it comes from: (nu - 1) nu q = epsilon above, (1 - nu) nu q = epsilon below.
    q = f64([0.7, 0.9])
    lower, upper = probability_clip_range(q.log(), 0.16, 0.2, 10.0)
    torch.testing.assert_close((upper - 1) * upper * q, f64([0.2, 0.2]), rtol=1e-12, atol=0)
    torch.testing.assert_close((1 - lower) * lower * q, f64([0.16, 0.16]), rtol=1e-12, atol=0)


def test_dcpo_has_no_gradient_beyond_a_tokens_own_range():
    """The range of q = .5 is (.5, 1.306), of q = .01 it is (.5, 5); for A < 0 nothing counts beyond 10."""
    old, ratios = f64([[0.5, 0.5, 0.01, 0.01]]).log(), f64([[1.3, 1.31, 4.9, 5.1]])
    _, grad = loss_and_gradient(dcpo(), old, ratios.log(), [1.0])
    torch.testing.assert_close(grad, -f64([[1.3, 0, 4.9, 0]]) / 4, rtol=1e-10, atol=0)
    assert dcpo().clipped(ratios, micro_batch(old, [1.0])).tolist() == [[False, True, False, True]]
    _, grad = loss_and_gradient(dcpo(), old, f64([[0.51, 0.49, 9.9, 10.1]]).log(), [-1.0])
    torch.testing.assert_close(grad, f64([[0.51, 0, 9.9, 0]]) / 4, rtol=1e-10, atol=0)


def test_the_history_is_that_of_all_rewards_so_far():
    """Equations 29 and 30 against mean and population variance of the rewards themselves."""
    visits = f64([[1, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0.5, 0]])
    history = UNVISITED
    for i, rewards in enumerate(visits):
        history = history.visited(rewards.mean().item(), rewards.var(correction=0).item())
        seen = visits[: i + 1]
        assert history.visits == i + 1
        assert history.mean == pytest.approx(seen.mean().item(), rel=1e-12)
        assert history.variance == pytest.approx(seen.var(correction=0).item(), rel=1e-12)


def test_smoothed_advantages_by_hand():
    """A first visit is standardised by itself; a second without differences by half of what all rewards say.

    Second visit of a prompt with mean 1/4 and variance 3/16, all four right: all eight have the mean 5/8 and
    variance 15/64, so c = (3/8) / sqrt(15/64) = 3 / sqrt 15, n = 0, and both forms are c / 2.
    """
    first, after = smoothed_advantages(f64([1, 0, 0, 0]), 4, [UNVISITED])
    torch.testing.assert_close(first, f64([3, -1, -1, -1]) / math.sqrt(3), rtol=1e-12, atol=0)
    assert after == [RewardHistory(visits=1, mean=0.25, variance=0.1875)]
    second, _ = smoothed_advantages(f64([1, 1, 1, 1]), 4, after)
    torch.testing.assert_close(second, f64([1.5 / math.sqrt(15)] * 4), rtol=1e-12, atol=0)
    # Third visit, 1, 0, 0, 0 after a mean of 5/8: all twelve have 1/2 and 1/4, so c is +-1; n as at first.
    _, after = smoothed_advantages(f64([1, 1, 1, 1]), 4, after)
    third, _ = smoothed_advantages(f64([1, 0, 0, 0]), 4, after)
    n, c = first, f64([1, -1, -1, -1])
    expected = torch.stack([(2 * n + c) / 3, (n + 2 * c) / 3])
    nearer = expected.abs().argmin(dim=0)
    torch.testing.assert_close(third, expected.gather(0, nearer[None])[0], rtol=1e-12, atol=0)
    assert nearer.tolist() == [1, 0, 0, 0]
    # Rewards that never vary teach nothing, however they are rounded.
    silent = after_many = [UNVISITED]
    for _ in range(5):
        silent, after_many = smoothed_advantages(torch.full((4,), 0.1), 4, after_many)
        assert silent.tolist() == [0, 0, 0, 0]


def test_dcpo_remembers_and_attributes_inside_the_group_alone():
    objective = dcpo()
    for rewards in ([1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]):
        made = rollouts(rewards, [1, 2, 1, 1], group_size=4)
        batch = objective.prepare(made, annotated(made), lambda value: value)
    assert (batch.advantages[batch.sampled] > 0.3).all()
    assert (batch.attribution == 0).all()
    assert objective.state_dict() == {"histories": {"0": [2, 0.625, 0.234375]}}
    other = dcpo()
    other.load_state_dict(objective.state_dict())
    assert other.histories == objective.histories


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epsilon_low": 0.0}, "epsilon_low must be positive"),
        ({"epsilon_high": -1.0}, "epsilon_high must be positive"),
        ({"ratio_cap": 1.0}, "ratio_cap must be > 1"),
    ],
)
def test_dcpo_refuses(change, said):
    with pytest.raises(ValueError, match=said):
        dcpo(**change)


# ---------------------------------------------------------------------- SPO, arXiv 2509.13232


def spo(**changes: Any) -> SPO:
    numbers = {"prior": 0.5, "forgetting_half": 0.06, "exploration": 0.05}
    bounds = {"forgetting_least": 0.875, "forgetting_most": 0.96}
    return SPO(**{**CLIP, **numbers, **bounds, **changes})


def visit(objective: SPO, rewards: list[float], moved: float = 0.0) -> Tensor:
    """Advantages of single responses; the policy has moved by so much on what it said the last time."""
    made = rollouts(rewards, [1 + i % 3 for i in range(len(rewards))], group_size=1)
    earlier = objective.recall(made)
    now = (earlier.logprobs + moved) * earlier.sampled
    given = replace(annotated(made), recalled=Recalled(completions=earlier, logprobs=now))
    batch = objective.prepare(made, given, lambda value: value)
    assert torch.equal(batch.attribution, batch.advantages)
    return batch.advantages[:, 0]


def test_a_belief_is_a_moving_average_that_forgets():
    """Equation 5, and its form in equation 7: v + (r - v) / (rho N + 1) with N = alpha + beta."""
    belief = Belief(successes=3.0, failures=1.0)
    after = belief.after(0.9, 0.0, 1)
    assert (after.successes, after.failures) == pytest.approx((2.7, 1.9))
    assert after.value == pytest.approx(0.75 - 0.75 / (0.9 * 4 + 1))
    # A group of three responses, two of them right, is forgotten about once.
    assert vars(belief.after(0.5, 2.0, 3)) == {"successes": 3.5, "failures": 1.5}


def test_half_is_forgotten_at_the_half_distance_within_bounds():
    distance = f64([0.0, 0.006, 0.06, 0.12])
    got = forgetting(distance, 0.06, 0.0, 1.0)
    torch.testing.assert_close(got, f64([1, 2**-0.1, 0.5, 0.25]), rtol=1e-12, atol=0)
    got = forgetting(distance, 0.06, 0.875, 0.96)
    torch.testing.assert_close(got, f64([0.96, 2**-0.1, 0.875, 0.875]), rtol=1e-12, atol=0)
    mask = torch.tensor([[True, True, False]])
    assert mean_change(f64([[-1, -2, -9]]), f64([[-1.5, -1.8, 0]]), mask).tolist() == pytest.approx([0.35])


def test_spo_takes_the_value_from_before_and_whitens_over_the_batch():
    """Rewards 1, 0, 0 at a value of 1/2: .5, -.5, -.5 of mean -1/6 and unbiased variance 1/3.

    Equations 8 and 9. Then alpha = .96 / 2 + 1 and beta = .96 / 2 for what was right: a first visit has
    moved nothing.
    """
    objective = spo()
    first = visit(objective, [1.0, 0.0, 0.0])
    root = math.sqrt(1 / 3)
    torch.testing.assert_close(first, torch.tensor([2 / 3, -1 / 3, -1 / 3]) / root, rtol=1e-6, atol=0)
    assert objective.value("0") == pytest.approx(1.48 / 1.96)
    assert objective.value("1") == pytest.approx(0.48 / 1.96)
    # 2^(-.006 / .06) of that is kept when the policy has moved by .006 on each token.
    second = visit(objective, [1.0, 1.0, 0.0], moved=0.006)
    raw = torch.tensor([1 - 1.48 / 1.96, 1 - 0.48 / 1.96, -0.48 / 1.96])
    torch.testing.assert_close(second, (raw - raw.mean()) / raw.std(), rtol=1e-5, atol=0)
    keep = 2**-0.1
    belief = objective.beliefs["1"]
    assert (belief.successes, belief.failures) == pytest.approx((keep * 0.48 + 1, keep * 1.48), rel=1e-5)
    assert visit(spo(), [1.0]).tolist() == [0.0]


def test_what_spo_remembers_can_be_handed_over():
    objective = spo()
    visit(objective, [1.0, 0.0, 1.0])
    other = spo()
    other.load_state_dict(objective.state_dict())
    assert torch.equal(visit(other, [0.0, 1.0, 1.0], 0.01), visit(objective, [0.0, 1.0, 1.0], 0.01))
    assert other.beliefs == objective.beliefs
    with pytest.raises(ValueError, match="remembers nothing, and is given beliefs, last"):
        sapo().load_state_dict(objective.state_dict())


def test_prompts_with_an_open_outcome_are_drawn_most():
    """Equation 11: sqrt(v (1 - v)) + .05, so .55 for one that was never seen."""
    weights = sampling_weights(f64([0.5, 0.0, 1.0, 0.2]), 0.05)
    torch.testing.assert_close(weights, f64([0.55, 0.05, 0.05, 0.45]), rtol=1e-12, atol=0)
    objective = spo()
    visit(objective, [1.0])
    v = 1.48 / 1.96
    expected = f64([math.sqrt(v * (1 - v)) + 0.05, 0.55])
    torch.testing.assert_close(objective.prompt_weights(["0", "new"]), expected, rtol=1e-12, atol=0)


def test_drawn_prompts_follow_the_weights_and_are_shared_by_ranks():
    examples = [Example(uid=str(i), question="", answer="") for i in range(12)]
    chances = torch.ones(12, dtype=torch.float64)

    def drawn(iteration: int, rank: int = 0, ranks: int = 1, repeat: int | None = None) -> list[str]:
        data = IterationDataset(
            examples,
            [(2,)] * 12,
            prompts_per_iteration=4,
            iterations=9,
            seed=3,
            shuffle=True,
            repeat_after=repeat,
            prompt_weights=lambda names: chances[[int(name) for name in names]],
        )
        data.share_between(rank, ranks)
        return [example.uid for example in data[iteration].first.examples]

    once = drawn(0)
    assert len(set(once)) == 4
    assert drawn(0) == once != drawn(1)
    assert [*zip(drawn(0, 0, 2), drawn(0, 1, 2), strict=True)] == [*zip(once[::2], once[1::2], strict=True)]
    assert drawn(0, repeat=1) == drawn(5, repeat=1)
    chances[:8] = 0.0
    assert all(set(drawn(iteration)) == {"8", "9", "10", "11"} for iteration in range(3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prior": 0.0}, "prior must be positive"),
        ({"forgetting_half": 0.0}, "forgetting_half must be positive"),
        ({"exploration": 0.0}, "exploration must be positive"),
        ({"forgetting_least": 0.97}, "forgetting_least <= forgetting_most <= 1 is needed, got 0.97 and 0.96"),
    ],
)
def test_spo_refuses(change, said):
    with pytest.raises(ValueError, match=said):
        spo(**change)
