"""Records refuse what does not fit and name the field."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from pipo.records.problems import Example, Reward
from pipo.records.rollouts import Completions, PromptBatch, pad_rows
from tests.unit.batches import policy_batch


def test_records_are_frozen():
    batch = policy_batch(prompts=1, group_size=2, width=2)
    with pytest.raises(FrozenInstanceError):
        batch.kl_coef = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("old_logprobs", torch.zeros(4, 9)),
        ("advantages", torch.zeros(4, 3, dtype=torch.float64)),
        ("response_mask", torch.zeros(4, 3)),
        ("attribution", torch.zeros(3, 3)),
    ],
)
def test_a_policy_batch_names_the_field_that_does_not_fit(field, value):
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        policy_batch(prompts=2, group_size=2, width=3, **{field: value})


def test_a_kl_penalty_needs_reference_logprobs():
    with pytest.raises(ValueError, match=r"ref_logprobs: required because kl_coef is 0\.1"):
        policy_batch(prompts=2, group_size=2, width=3, kl_coef=0.1)


def test_completions_check_their_shapes():
    ids = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="logprobs: expected shape"):
        Completions(
            response_ids=ids,
            response_mask=ids.bool(),
            sampled=ids.bool(),
            logprobs=torch.zeros(2, 4),
            finished=torch.zeros(2).bool(),
        )


def test_a_prompt_without_tokens_is_named():
    with pytest.raises(ValueError, match="the prompt of x/1 has no tokens"):
        PromptBatch(examples=(Example(uid="x/1", question="", answer=""),), prompt_ids=((),))


def test_rewards_lie_between_zero_and_one():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Reward(score=1.5)
    assert Reward(score=1.0).solved
    assert not Reward(score=0.99).solved


def test_where_it_is_said_what_is_right_a_reward_may_be_any_number():
    assert Reward(score=-3.0, right=True).solved
    assert not Reward(score=3.0, right=False).solved
    with pytest.raises(ValueError, match=r"Reward\.score must be finite, got inf"):
        Reward(score=float("inf"), right=True)


@pytest.mark.parametrize("verdict", [{"score": 0.0}, {"score": 0.5, "error": "late"}])
def test_what_the_machine_could_not_grade_has_a_reason_and_no_score(verdict: dict[str, Any]):
    with pytest.raises(ValueError, match=r"Reward\.infrastructure needs an error"):
        Reward(**verdict, infrastructure=True)


def test_contributing_rows():
    batch = policy_batch(prompts=2, group_size=2, width=3)
    advantages = torch.zeros(4, 3)
    advantages[2, 1] = 0.1
    assert batch.reweighted(advantages, 0.0).contributing_rows().tolist() == [False, False, True, False]


def test_pad_rows():
    ids, mask = pad_rows([[5], [6, 7, 8], []])
    assert ids.tolist() == [[5, 0, 0], [6, 7, 8], [0, 0, 0]]
    assert mask.tolist() == [[True, False, False], [True, True, True], [False, False, False]]
