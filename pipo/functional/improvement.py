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

A prompt whose responses all got the same reward has d_x = 0 exactly. So it need not be scored, and a filter
that drops it does no harm as long as it is counted.
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
    cost: float
    """Mean over prompts of the rewards' spread, sqrt(mean_i (r_i - b_i)^2), times the distance
    KL(pi_t || pi_{t-1}) in nats, by the k3 estimator; in units of the reward."""
    distance: float
    """That distance on the prompts that were scored."""
    spread: float
    """Standard deviation of delta over their responses, in nats. From about 1 on, few responses carry all of
    the weight, and neither ``change`` nor ``error`` can be trusted."""

    prompts: int
    """Prompts that were scored."""

    @property
    def evidence(self) -> float:
        """Standard errors by which the policy got better; 0 where there is no error, as nothing moved."""
        return self.evidence_above(0.0)

    def evidence_above(self, price: float) -> float:
        """Standard errors by which the change is worth more than ``price`` times its cost."""
        return 0.0 if self.error == 0 else (self.change - price * self.cost) / self.error


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
        float64 [7]: prompts; sums over them of d_x, its square and the cost; sums over responses of k3, delta
        and delta^2.
    """
    cut = delta.clamp(-bound, bound)
    gained = -torch.expm1(-cut)  # 1 - w
    k3 = cut - gained
    grouped = [each.view(-1, group_size) for each in (advantages, gained, k3)]
    d = (grouped[0] * grouped[1]).mean(dim=1)
    cost = grouped[0].square().mean(dim=1).sqrt() * grouped[2].mean(dim=1)
    count = torch.tensor(float(len(d)), dtype=torch.float64)
    sums = (d.sum(), d.square().sum(), cost.sum(), k3.sum(), delta.sum(), delta.square().sum())
    return torch.stack([count, *sums])


def improvement(sums: Tensor, group_size: int, eligible: int, drawn: int) -> Improvement | None:
    """The estimate from the sums of all ranks.

    With p the share of groups that are worth scoring, change = p * mean(d_x of those scored), and by the
    delta method error^2 = p^2 var(d_x) / scored + mean(d_x)^2 p (1 - p) / drawn, which is the plain standard
    error over all prompts where all that are eligible were scored.

    Args:
        sums: of :func:`transition_sums`.
        group_size: G.
        eligible: groups worth scoring among those that were sampled; a batch may have no room for all.
        drawn: groups that were sampled.

    Returns:
        The estimate; None where fewer than two prompts were scored, whose spread says nothing.
    """
    prompts, total, squares, cost, k3, delta, delta_squares = sums.tolist()
    if prompts < 2:
        return None
    p, mean, responses = eligible / drawn, total / prompts, prompts * group_size
    variance = max((squares - prompts * mean**2) / (prompts - 1), 0.0)  # this way round nan stays nan
    centre = delta / responses
    return Improvement(
        change=p * mean,
        error=math.sqrt(p**2 * variance / prompts + mean**2 * p * (1 - p) / drawn),
        cost=p * cost / prompts,
        distance=k3 / responses,
        spread=math.sqrt(max(delta_squares / responses - centre**2, 0.0)),
        prompts=int(prompts),
    )
