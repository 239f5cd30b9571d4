r"""Unbiased estimate, from fresh samples, of what the last policy transition did to the mean reward.

A batch of N prompts with G responses each, drawn from pi_t, says how good pi_t is, and by importance weights
how good pi_{t-1} would have been on the *same* prompts and the *same* responses. The draw of prompts, which
is nearly all of the noise in a difference of two batch means, cancels. For response y_i of prompt x:

    delta_i = sum_k log pi_t(y_ik) - log pi_{t-1}(y_ik)     sampled tokens only
    w_i     = exp(-delta_i) = pi_{t-1}(y_i) / pi_t(y_i)
    b_i     = mean reward of the other responses of x       (G = 1: of the other responses of the batch)
    d_x     = mean_i (r_i - b_i)(1 - w_i)
    change  = mean_x d_x                                     E[change] = J(pi_t) - J(pi_{t-1})
    error   = std_x(d_x) / sqrt(N)                           prompts are the sampling unit

Unbiased, because under pi_t: E[w r] = J(pi_{t-1}), E[1 - w] = 0, and b_i does not depend on y_i. The bound on
delta, which long responses need, moves the estimate by what lies beyond it and by nothing else.

The same samples say how the reward changes along the way, pi_s proportional to pi_{t-1}^(1-s) pi_t^s, where
dJ/ds = Cov(r, delta) under pi_s:

    slope_after  = mean_x mean_i (r_i - b_i) delta_i         at s = 1, unbiased
    slope_before = mean_x mean_i (r_i - b_i) delta_i w_i     at s = 0, but for change * KL(pi_{t-1} || pi_t)

A step that is much too short has the same slope at both ends, one that went to the best point on its way has
none left. Rewards that are partly chance make both slopes smaller, and noisier, in the same proportion. With
G = 1 the baseline comes from other prompts, and each slope is off by the covariance over prompts of J and KL.

A prompt whose responses all got the same reward has d_x = 0 exactly, and no slopes. So it need not be
scored, and a filter that drops it does no harm as long as it is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Nats that an importance weight follows the change of a response's log-probability. Where a change is that
#: large, the spread is far beyond what can be trusted; the bound keeps one response from being all there is.
BOUND = 5.0


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """What one transition did, over all ranks."""

    change: float
    """Estimate of J(pi_t) - J(pi_{t-1}), in units of the reward."""
    error: float
    """Its standard error."""
    slope_before: float
    """dJ/ds at pi_{t-1}, in units of the reward per step."""
    slope_after: float
    """dJ/ds at pi_t."""
    variance_before: float
    """Of ``slope_before``: its standard error, squared."""
    variance_after: float
    """Of ``slope_after``."""
    covariance: float
    """Of the two, which share their samples."""
    distance: float
    """KL(pi_t || pi_{t-1}) in nats, by the k3 estimator, on the prompts that were scored."""
    spread: float
    """Standard deviation of delta over their responses, in nats. From about 1 on, few responses carry all of
    the weight, and neither ``change`` nor ``error`` can be trusted."""

    prompts: int
    """Prompts that were scored."""

    @property
    def evidence(self) -> float:
        """Standard errors by which the policy got better; 0 where there is no error, as nothing moved."""
        return 0.0 if self.error == 0 else self.change / self.error

    def evidence_of_slope(self, share: float) -> float:
        """Standard errors by which the slope after the step is more than ``share`` of that before it."""
        variance = self.variance_after + share**2 * self.variance_before - 2 * share * self.covariance
        left = self.slope_after - share * self.slope_before
        return 0.0 if variance <= 0 else left / math.sqrt(variance)


def leave_one_out(rewards: Tensor, group_size: int, total: float, count: int) -> Tensor:
    """r_i - b_i: reward above the mean of the other responses of the same prompt.

    Args:
        rewards: [N * G], verifier rewards, group-major.
        group_size: G; with one response per prompt the others of the batch stand in.
        total: sum of the rewards over all ranks, used with G = 1.
        count: how many these are.

    Returns:
        float64 [N * G]; 0 where there is no other response.
    """
    rewards = rewards.double()
    if group_size == 1:
        return rewards - (total - rewards) / (count - 1) if count > 1 else torch.zeros_like(rewards)
    groups = rewards.view(-1, group_size)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).view(-1)


def transition_sums(advantages: Tensor, delta: Tensor, group_size: int, bound: float) -> Tensor:
    """This rank's share of :func:`improvement`: sums that add up over ranks.

    Args:
        advantages: float64 [n * G], r_i - b_i of the prompts that were scored.
        delta: float64 [n * G], log pi_t(y_i) - log pi_{t-1}(y_i).
        group_size: G.
        bound: |delta| is cut to this in the weights.

    Returns:
        float64 [11]: prompts; sums over them of d_x, the slope before and the slope after, of their squares
        and of the product of the slopes; sums over responses of k3, delta and delta^2.
    """
    cut = delta.clamp(-bound, bound)
    gained = -torch.expm1(-cut)  # 1 - w
    of_responses = torch.stack([gained, cut * (1 - gained), cut]) * advantages
    d, before, after = by_prompt = of_responses.view(3, -1, group_size).mean(dim=2)
    count = torch.tensor([float(len(d))], dtype=torch.float64)
    rest = torch.stack([(before * after).sum(), (cut - gained).sum(), delta.sum(), delta.square().sum()])
    return torch.cat([count, by_prompt.sum(dim=1), by_prompt.square().sum(dim=1), rest])


def improvement(sums: Tensor, group_size: int, eligible: int, drawn: int) -> Improvement | None:
    """The estimate from the sums of all ranks.

    With p the share of groups that are worth scoring, change = p * mean(d_x of those scored), and by the
    delta method error^2 = p^2 var(d_x) / scored + mean(d_x)^2 p (1 - p) / drawn, which is the plain standard
    error over all prompts where all that are eligible were scored. The slopes likewise.

    Args:
        sums: of :func:`transition_sums`.
        group_size: G.
        eligible: groups worth scoring among those that were sampled; a batch may have no room for all.
        drawn: groups that were sampled.

    Returns:
        The estimate; None where fewer than two prompts were scored, whose spread says nothing.
    """
    prompts, d, before, after, d_d, before_before, after_after, before_after, k3, delta, delta_squares = (
        sums.tolist()
    )
    if prompts < 2:
        return None
    p, responses = eligible / drawn, prompts * group_size

    def covariance(product: float, one: float, other: float) -> float:
        of_one_prompt = (product - one * other / prompts) / (prompts - 1)
        return p**2 * of_one_prompt / prompts + one * other / prompts**2 * p * (1 - p) / drawn

    centre = delta / responses
    return Improvement(
        change=p * d / prompts,
        error=math.sqrt(max(covariance(d_d, d, d), 0.0)),  # this way round nan stays nan
        slope_before=p * before / prompts,
        slope_after=p * after / prompts,
        variance_before=covariance(before_before, before, before),
        variance_after=covariance(after_after, after, after),
        covariance=covariance(before_after, before, after),
        distance=k3 / responses,
        spread=math.sqrt(max(delta_squares / responses - centre**2, 0.0)),
        prompts=int(prompts),
    )
