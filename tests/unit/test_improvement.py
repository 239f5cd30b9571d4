"""The improvement estimate against enumeration: every batch that could be drawn, with its probability."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pipo.functional.improvement import Improvement, improvement, leave_one_out, transition_sums
from pipo.records.rollouts import mixed_groups

REWARDS = torch.tensor([[1.0, 0.0, 0.25], [0.0, 0.5, 1.0]], dtype=torch.float64)  # prompt, response
EARLIER = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], dtype=torch.float64)
PRESENT = torch.tensor([[0.3, 0.4, 0.3], [0.5, 0.2, 0.3]], dtype=torch.float64)
FAR = 50.0  # nats; no bound here


def estimate(rewards: torch.Tensor, delta: torch.Tensor, group_size: int, bound: float = FAR) -> Improvement:
    """Everything scored."""
    advantages = leave_one_out(rewards, group_size, float(rewards.sum()), len(rewards))
    drawn = len(rewards) // group_size
    found = improvement(transition_sums(advantages, delta, group_size, bound), group_size, drawn, drawn)
    assert found is not None
    return found


def batches(policy: torch.Tensor, group_size: int):
    """Every batch of one group per prompt: its probability, and the responses of each prompt in turn."""
    choices = [itertools.product(range(policy.shape[1]), repeat=group_size) for _ in policy]
    for drawn in itertools.product(*choices):
        index = torch.tensor(drawn)
        yield policy.gather(1, index).prod().item(), index


@pytest.mark.parametrize("group_size", [1, 2, 3])
def test_it_is_unbiased(group_size):
    """The expectation over all 3^(2 G) batches is J(pi_t) - J(pi_{t-1}), both summed over all responses."""
    delta = (PRESENT / EARLIER).log()
    expected, mass = 0.0, 0.0
    for probability, index in batches(PRESENT, group_size):
        found = estimate(REWARDS.gather(1, index).view(-1), delta.gather(1, index).view(-1), group_size)
        expected += probability * found.change
        mass += probability
    truth = ((PRESENT - EARLIER) * REWARDS).sum(dim=1).mean().item()
    assert mass == pytest.approx(1, abs=1e-12)
    assert expected == pytest.approx(truth, abs=1e-12)
    assert abs(truth) > 0.05


def test_a_bound_moves_it_by_what_lies_beyond_and_by_nothing_else():
    """With |delta| cut to c the expectation is that of E[(r - b)(1 - exp(-cut))], a sum over responses."""
    delta, bound = (PRESENT / EARLIER).log(), 0.3
    expected = sum(
        probability * estimate(REWARDS.gather(1, i).view(-1), delta.gather(1, i).view(-1), 2, bound).change
        for probability, i in batches(PRESENT, 2)
    )
    baseline = (PRESENT * REWARDS).sum(dim=1, keepdim=True)  # b is independent of y, so its mean is enough
    terms = PRESENT * (REWARDS - baseline) * (1 - torch.exp(-delta.clamp(-bound, bound)))
    assert expected == pytest.approx(terms.sum(dim=1).mean().item(), abs=1e-12)
    inside = delta.abs().max().item() + 1e-9
    index = torch.tensor([[0, 1], [2, 2]])
    case = REWARDS.gather(1, index).view(-1), delta.gather(1, index).view(-1), 2
    assert estimate(*case, inside) == estimate(*case, FAR)


def test_scoring_the_previous_batch_instead_is_biased():
    """Rewards by the toss of a coin: no update does anything, and the old batch says that all of them help.

    Each batch is of two responses to one prompt; the update moves mass towards those with the reward.
    """
    policy = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    naive = fresh = 0.0
    for probability, index in batches(policy, 2):
        for coins in itertools.product([0.0, 1.0], repeat=2):
            rewards = torch.tensor(coins, dtype=torch.float64)
            advantages = leave_one_out(rewards, 2, 0.0, 2)
            logits = policy.log()[0].index_add(0, index[0], 0.5 * advantages)
            new = logits.softmax(0)
            rho = (new / policy[0])[index[0]]
            naive += probability / 4 * (advantages * (rho - 1)).mean().item()
            for chance, again in batches(new[None], 2):
                for others in itertools.product([0.0, 1.0], repeat=2):
                    delta = (new / policy[0]).log()[again[0]]
                    tossed = leave_one_out(torch.tensor(others), 2, 0.0, 2)
                    change = (tossed * -torch.expm1(-delta)).mean().item()
                    fresh += probability / 4 * chance / 4 * change
    assert fresh == pytest.approx(0, abs=1e-15)
    assert naive > 0.1


def test_the_standard_error_is_that_of_the_mean_over_prompts():
    """For fixed G the d_x are independent and alike, so E[error^2] is Var(change): both enumerated."""
    one, delta = PRESENT[:1].expand(2, -1), (PRESENT / EARLIER).log()[:1].expand(2, -1)
    rewards = REWARDS[:1].expand(2, -1)
    first = second = squared_error = 0.0
    for probability, index in batches(one, 2):
        found = estimate(rewards.gather(1, index).view(-1), delta.gather(1, index).view(-1), 2)
        first += probability * found.change
        second += probability * found.change**2
        squared_error += probability * found.error**2
    assert squared_error == pytest.approx(second - first**2, abs=1e-12)


@pytest.mark.parametrize("group_size", [2, 3])
def test_the_slopes_are_covariances_at_both_ends(group_size):
    """Cov(r, delta) under pi_t, and under pi_{t-1} but for (J_t - J_{t-1}) KL, which the docstring names."""
    delta = (PRESENT / EARLIER).log()
    found = [
        (probability, estimate(REWARDS.gather(1, i).view(-1), delta.gather(1, i).view(-1), group_size))
        for probability, i in batches(PRESENT, group_size)
    ]

    def at(policy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        reward, mean = (policy * REWARDS).sum(dim=1), (policy * delta).sum(dim=1)
        return (policy * REWARDS * delta).sum(dim=1) - reward * mean, reward, mean

    (after, j_after, _), (before, j_before, minus_kl) = at(PRESENT), at(EARLIER)
    assert sum(p * one.slope_after for p, one in found) == pytest.approx(after.mean().item(), abs=1e-12)
    before -= (j_after - j_before) * minus_kl
    assert sum(p * one.slope_before for p, one in found) == pytest.approx(before.mean().item(), abs=1e-12)
    assert (after - before).abs().max() > 0.01


def test_the_slopes_have_the_covariance_of_two_means_over_prompts():
    """As for the standard error: E of the estimates is what the slopes do over all batches."""
    one, delta = PRESENT[:1].expand(2, -1), (PRESENT / EARLIER).log()[:1].expand(2, -1)
    rewards = REWARDS[:1].expand(2, -1)
    found = [
        (probability, estimate(rewards.gather(1, i).view(-1), delta.gather(1, i).view(-1), 2))
        for probability, i in batches(one, 2)
    ]

    def mean(of) -> float:
        return sum(probability * of(each) for probability, each in found)

    before, after = mean(lambda e: e.slope_before), mean(lambda e: e.slope_after)
    for name, product in {
        "variance_before": lambda e: (e.slope_before - before) ** 2,
        "variance_after": lambda e: (e.slope_after - after) ** 2,
        "covariance": lambda e: (e.slope_before - before) * (e.slope_after - after),
    }.items():
        assert mean(lambda e, name=name: getattr(e, name)) == pytest.approx(mean(product), abs=1e-12)


def test_prompts_of_equal_rewards_need_no_score():
    """They have d_x = 0 and no slopes: leaving them out, but counting them, is the same estimate."""
    generator = torch.Generator().manual_seed(3)
    rewards = (torch.rand(60, generator=generator) < 0.25).double()
    delta = 0.3 * torch.randn(60, generator=generator, dtype=torch.float64)
    whole, groups = estimate(rewards, delta, 3), mixed_groups(rewards, 3)
    rows = (groups[:, None] * 3 + torch.arange(3)).view(-1)
    sums = transition_sums(leave_one_out(rewards[rows], 3, 0.0, 0), delta[rows], 3, FAR)
    part = improvement(sums, 3, len(groups), 20)
    assert part is not None
    assert 5 < len(groups) < 15
    assert part.change == pytest.approx(whole.change, rel=1e-12)
    assert part.slope_before == pytest.approx(whole.slope_before, rel=1e-12)
    assert part.slope_after == pytest.approx(whole.slope_after, rel=1e-12)
    # The two divide by n - 1 of different n, 20 and the scored ones.
    assert part.error == pytest.approx(whole.error, rel=0.02)
    assert part.evidence == pytest.approx(whole.evidence, rel=0.02)
    assert part.evidence_of_slope(0.9) == pytest.approx(whole.evidence_of_slope(0.9), rel=0.02)


def test_by_hand():
    """Two prompts of two: d = (.5 (1 - e^-.2) + .5 (e^.1 - 1)) and 0; spreads and distances by hand."""
    rewards, delta = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.2, -0.1, 0.3, 0.0]).double()
    found = estimate(rewards, delta, 2)
    d = (1 - math.exp(-0.2) + math.exp(0.1) - 1) / 2
    assert found.change == pytest.approx(d / 2, rel=1e-7)
    assert found.error == pytest.approx(d / 2, rel=1e-7)  # std of (d, 0) is d / sqrt(2)
    assert found.evidence == pytest.approx(1, rel=1e-7)
    k3 = [math.exp(-x) - 1 + x for x in (0.2, -0.1, 0.3, 0.0)]
    assert found.distance == pytest.approx(sum(k3) / 4, rel=1e-6)
    before, after = (0.2 * math.exp(-0.2) + 0.1 * math.exp(0.1)) / 2, 0.15  # of the first prompt
    assert found.slope_before == pytest.approx(before / 2, rel=1e-7)
    assert found.slope_after == pytest.approx(after / 2, rel=1e-7)
    # The other prompt has none, so that again the standard error is the mean.
    for share in (0.0, 0.5, 0.9):
        assert found.evidence_of_slope(share) == pytest.approx(1, rel=1e-6)
    assert found.evidence_of_slope(1.2) == pytest.approx(-1, rel=1e-6)
    assert found.spread == pytest.approx(math.sqrt(0.14 / 4 - 0.01), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_taken_for_no_change(bad):
    rewards, delta = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([bad, 0.1, 0.2, 0.0]).double()
    assert math.isnan(estimate(rewards, delta, 2).spread)


def test_where_nothing_can_be_told():
    rewards, delta = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.5, -0.5, 0.1, 0.2]).double()
    equal = estimate(rewards, delta, 2)
    assert (equal.change, equal.error, equal.evidence, equal.evidence_of_slope(0.9)) == (0, 0, 0, 0)
    assert equal.spread > 0.3  # how far it went is still known
    assert improvement(torch.zeros(11, dtype=torch.float64), 2, 0, 5) is None
    assert leave_one_out(torch.tensor([1.0]), 1, 1.0, 1).tolist() == [0]
