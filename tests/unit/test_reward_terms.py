"""Reward terms: what they are shown, what they may return, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipo.errors import ConfigError
from pipo.modules.hooks import RolloutCallback
from pipo.records.problems import Example, Reward
from pipo.rollout.reward_terms import GradedResponses, OverlongPenalty, reward_terms
from tests import toy


def graded(*lengths: int, group_size: int = 1) -> GradedResponses:
    count = len(lengths)
    return GradedResponses(
        examples=tuple(Example(uid=f"x/{i}", question="", answer="") for i in range(count)),
        texts=("text",) * count,
        verdicts=(Reward(score=1.0),) * count,
        rewards=torch.ones(count),
        lengths=torch.tensor(lengths),
        finished=torch.ones(count, dtype=torch.bool),
        group_size=group_size,
    )


def test_the_overlong_penalty_by_hand() -> None:
    # Limit 20, buffer 5: nothing up to 15 tokens, then a fifth for each further one.
    got = OverlongPenalty(buffer=5, max_response_tokens=20)(graded(1, 15, 16, 19, 20))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor([0, 0, -0.2, -0.8, -1]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("buffer", [0, -1, 21])
def test_the_overlong_penalty_refuses_a_buffer_beyond_the_limit(buffer: int) -> None:
    said = rf"buffer must lie in \[1, max_response_tokens = 20\], got {buffer}"
    with pytest.raises(ValueError, match=said):
        OverlongPenalty(buffer=buffer, max_response_tokens=20)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (None, "NoneType"),
        (0.5, "float"),
        (torch.zeros(2), "float32 [2]"),
        (torch.zeros(3, 1), "float32 [3, 1]"),
        (torch.tensor(0.0), "float32 []"),
        (torch.zeros(3, dtype=torch.float64), "float64 [3]"),
        (torch.zeros(3, dtype=torch.bool), "bool [3]"),
        (torch.tensor([0.0, float("nan"), float("inf")]), "nan for response 1 (x/1)"),
        (torch.tensor([0.0, 0.0, float("-inf")]), "-inf for response 2 (x/2)"),
    ],
)
def test_what_cannot_be_added_is_one_line_with_the_terms_name(returned: Any, got: str) -> None:
    with pytest.raises(ConfigError) as error:
        reward_terms({"fine": lambda g: torch.zeros(3), "mine": lambda g: returned}, graded(1, 2, 3))
    assert str(error.value) == f"algo.reward_terms.mine: must return finite float32 [3], got {got}"


class Kept(RolloutCallback):
    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        self.rollouts = rollouts


def test_terms_see_what_was_graded_and_are_added_up_and_logged_one_by_one() -> None:
    """Nothing of them reaches mu, the accuracy or the verdicts; of the advantages they are a part."""
    seen: list[GradedResponses] = []

    def length(graded: GradedResponses) -> torch.Tensor:
        seen.append(graded)
        return graded.lengths / 8

    def cut(graded: GradedResponses) -> torch.Tensor:
        return torch.where(graded.finished, 0.25, -0.5)

    plain, shaped, kept = toy.Record(), toy.Record(), Kept()
    toy.fit(toy.module(), [plain], 1)
    toy.fit(toy.module(terms={"length": length, "cut": cut}), [shaped, kept], 1)
    (shown,) = seen
    rollouts = kept.rollouts
    assert shown.texts == rollouts.texts
    assert shown.verdicts == rollouts.verdicts
    assert [example.uid for example in shown.examples[::4]] == [e.uid for e in rollouts.prompts.examples]
    assert (len(shown.examples), shown.group_size) == (16, 4)
    assert torch.equal(shown.rewards, rollouts.rewards)
    lengths, finished = rollouts.completions.lengths, rollouts.completions.finished
    # Eighths and quarters are exact in float32, so the order of the sum does not matter.
    by_hand = torch.tensor(
        [
            n / 8 + (0.25 if done else -0.5)
            for n, done in zip(lengths.tolist(), finished.tolist(), strict=True)
        ]
    )
    assert torch.equal(rollouts.shaping, by_hand)
    assert len(by_hand.unique()) > 1
    assert finished.any()
    assert not finished.all()
    (before,), (after,) = plain.metrics, shaped.metrics
    assert after["train/reward_terms/length"] == lengths.sum().item() / 8 / 16
    assert after["train/reward_terms/cut"] == (0.25 * finished.sum() - 0.5 * (~finished).sum()).item() / 16
    assert after["train/shaping"] == by_hand.sum().item() / 16
    assert after["train/reward"] == before["train/reward"] == rollouts.reward_sum / rollouts.reward_count
    assert after["train/accuracy"] == before["train/accuracy"]
    assert plain.stats == shaped.stats
    assert not torch.equal(plain.batches[0].advantages, shaped.batches[0].advantages)
