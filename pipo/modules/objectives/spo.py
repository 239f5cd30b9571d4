"""SPO: one response per prompt, whose baseline is what earlier responses to that prompt have earned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipo.distributed.collectives import all_gather
from pipo.functional.advantages import moments, whiten_batch
from pipo.functional.value_tracking import Belief, forgetting, mean_change, sampling_weights
from pipo.modules.objectives.base import Objective, policy_batch
from pipo.records.batches import Annotations, PolicyBatch, Recalled
from pipo.records.rollouts import Completions, Rollouts


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """What one iteration saw of one prompt."""

    name: str
    keep: float
    successes: float
    responses: int
    last: Completions
    """One response, with the log-probabilities of the policy that gave it."""


class SPO(Objective):
    """Single-stream policy optimisation (arXiv 2509.13232).

    The tracker begins with a prior; the paper's first estimate from responses that are sampled before
    training is not made. Groups are allowed: all responses to a prompt then share the tracker's baseline, as
    in the paper's appendix B.

    The tracker is replicated on every process. It holds one response per prompt that was ever drawn, 9 bytes
    per token.

    Args:
        prior: successes and failures, each, that every prompt begins with.
        forgetting_half: D at which half of the past is forgotten.
        forgetting_least: what is kept of the past, at least.
        forgetting_most: at most.
        exploration: epsilon of the prompts' sampling weights.
        **clip_and_loss: see :class:`~pipo.modules.objectives.base.Objective`.
    """

    recalls = True
    draws_prompts = True

    def __init__(
        self,
        *,
        prior: float,
        forgetting_half: float,
        forgetting_least: float,
        forgetting_most: float,
        exploration: float,
        **clip_and_loss: Any,
    ) -> None:
        super().__init__(**clip_and_loss)
        for name, value in (
            ("prior", prior),
            ("forgetting_half", forgetting_half),
            ("exploration", exploration),
        ):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0 <= forgetting_least <= forgetting_most <= 1:
            raise ValueError(
                "0 <= forgetting_least <= forgetting_most <= 1 is needed, "
                f"got {forgetting_least} and {forgetting_most}"
            )
        self.unvisited = Belief(successes=prior, failures=prior)
        self.forgetting = (forgetting_half, forgetting_least, forgetting_most)
        self.exploration = exploration
        #: By the problem's uid; the same on every rank.
        self.beliefs: dict[str, Belief] = {}
        self.last: dict[str, Completions] = {}

    def value(self, name: str) -> float:
        """Expected success rate of a problem, by its uid."""
        return self.beliefs.get(name, self.unvisited).value

    def prompt_weights(self, names: Sequence[str]) -> Tensor:
        """Problems whose outcome is the least certain are drawn most."""
        values = torch.tensor([self.value(name) for name in names], dtype=torch.float64)
        return sampling_weights(values, self.exploration)

    def recall(self, rollouts: Rollouts) -> Completions:
        """The last response to each prompt; the fresh one, where there is none."""
        fresh = rollouts.completions
        return Completions.join(
            [
                self.last.get(example.uid) or fresh.rows(torch.tensor([i * rollouts.group_size]))
                for i, example in enumerate(rollouts.prompts.examples)
            ]
        )

    def prepare(
        self, rollouts: Rollouts, annotations: Annotations, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> PolicyBatch:
        """Reward minus the value from before, whitened over the responses; the same serve as attribution."""
        names = [example.uid for example in rollouts.prompts.examples]
        values = torch.tensor([self.value(name) for name in names]).repeat_interleave(rollouts.group_size)
        of_responses = (rollouts.rewards + rollouts.shaping - values)[:, None]
        real = rollouts.completions.sampled.any(dim=1, keepdim=True)
        totals = sum_over_ranks(moments(of_responses, real))
        # A single response is its own mean.
        advantages = whiten_batch(of_responses, real, totals)
        assert annotations.recalled is not None
        self._remember(self._visits(names, rollouts, annotations, annotations.recalled))
        return policy_batch(
            rollouts,
            annotations,
            advantages=advantages[:, 0],
            attribution=advantages[:, 0],
            kl_coef=self.kl_coef,
        )

    def _visits(
        self, names: Sequence[str], rollouts: Rollouts, annotations: Annotations, recalled: Recalled
    ) -> list[_Visit]:
        """What this rank saw."""
        size, earlier = rollouts.group_size, recalled.completions
        distance = mean_change(recalled.logprobs, earlier.logprobs, earlier.sampled)
        known = torch.tensor([name in self.last for name in names])
        keep = forgetting((distance * known).double(), *self.forgetting).tolist()
        successes = rollouts.rewards.double().view(-1, size).sum(dim=1).tolist()
        fresh = replace(rollouts.completions, logprobs=annotations.old_logprobs)
        lengths = fresh.lengths.tolist()
        return [
            _Visit(
                name=name,
                keep=keep[i],
                successes=successes[i],
                responses=size,
                last=fresh.rows(torch.tensor([i * size])).cut(lengths[i * size]),
            )
            for i, name in enumerate(names)
            if lengths[i * size]  # a group that stands in for none has no tokens
        ]

    def _remember(self, own: list[_Visit]) -> None:
        """Add the visits of all ranks, in the order of the prompts over them."""
        of_ranks = all_gather(own)
        for place in range(max(map(len, of_ranks))):
            for visit in [visits[place] for visits in of_ranks if place < len(visits)]:
                belief = self.beliefs.get(visit.name, self.unvisited)
                self.beliefs[visit.name] = belief.after(visit.keep, visit.successes, visit.responses)
                self.last[visit.name] = visit.last

    def state_dict(self) -> dict[str, Any]:
        """Belief and last response of every prompt that was ever drawn."""
        return {
            "beliefs": {name: [each.successes, each.failures] for name, each in self.beliefs.items()},
            "last": {name: vars(each).copy() for name, each in self.last.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self.beliefs = {
            name: Belief(successes=successes, failures=failures)
            for name, (successes, failures) in state["beliefs"].items()
        }
        self.last = {name: Completions(**tensors) for name, tensors in state["last"].items()}
