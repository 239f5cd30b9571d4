"""Micro-batches: nothing lost, nothing over budget, alignment of sequence and response."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipo.modules.batching import by_token_budget, idle_micro_batch, micro_batches, mini_batches
from tests.unit.batches import policy_batch


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 200))
def test_every_sequence_once_and_within_the_budget(lengths, budget):
    groups = by_token_budget(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[i] for i in group)
        assert padded <= budget or len(group) == 1


def test_micro_batches_align_responses_with_their_tokens():
    batch = policy_batch(prompts=3, group_size=4, width=7)
    seen = []
    for micro in micro_batches(batch, torch.arange(len(batch)), 40):
        for row in range(len(micro.input_ids)):
            tokens = micro.input_ids[row][micro.sequence_mask[row]]
            old = micro.old_logprobs[row][micro.response_mask[row]]
            match = [
                i
                for i in range(len(batch))
                if torch.equal(batch.response_ids[i][batch.response_mask[i]], tokens)
                and torch.equal(batch.old_logprobs[i][batch.response_mask[i]], old)
            ]
            assert len(match) == 1
            prompt = batch.prompt_ids[match[0] // 4]
            assert tuple(micro.input_ids[row, : len(prompt)].tolist()) == prompt
            assert not micro.sequence_mask[row, : len(prompt)].any()
            seen += match
    assert sorted(seen) == list(range(len(batch)))


def test_idle_micro_batch_has_no_tokens_to_train():
    micro = idle_micro_batch(policy_batch(prompts=2, group_size=2, width=3))
    assert not micro.sequence_mask.any()
    assert not micro.response_mask.any()
    assert len(micro.input_ids) == 1


def test_mini_batches_keep_the_order():
    assert [rows.tolist() for rows in mini_batches(5, 2)] == [[0, 1], [2, 3], [4]]
