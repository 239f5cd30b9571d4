"""Micro-batches: nothing lost, nothing over budget, alignment of tokens and what is known of them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipo.modules.batching import (
    ATTENTION_SHARE,
    idle_micro_batch,
    micro_batches,
    mini_batches,
    row_groups,
)
from pipo.records.batches import ValueTargets
from tests.unit.batches import policy_batch


@settings(max_examples=200, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    group_size=st.integers(1, 5),
    budget=st.integers(1, 200),
    data=st.data(),
)
def test_every_row_once_and_within_the_budget(prompts, group_size, budget, data):
    count = len(prompts) * group_size
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, 50), min_size=count, max_size=count)))
    rows = torch.tensor(data.draw(st.lists(st.sampled_from(range(count)), unique=True)), dtype=torch.int64)
    groups = row_groups([(5,) * n for n in prompts], group_size, lengths, rows, budget)
    assert sorted(i for group in groups for i in group) == sorted(rows.tolist())
    for group in groups:
        responses = int(lengths[group].sum())
        once = responses + sum(prompts[p] for p in {i // group_size for i in group})
        each = responses + sum(prompts[i // group_size] for i in group)
        assert (once <= budget and each <= ATTENTION_SHARE * budget) or len(group) == 1


def test_no_pass_is_left_with_a_remainder():
    """105 tokens in passes of at most 100: 60 and 48, the prompt in between read twice, not 99 and 9."""
    lengths = torch.full((30,), 3)
    groups = row_groups([(5,) * 3] * 5, 6, lengths, torch.arange(30), 100)
    assert [len(group) for group in groups] == [17, 13]
    assert [3 * len(g) + 3 * len({i // 6 for i in g}) for g in groups] == [60, 48]


def test_a_teachers_rows_stay_within_the_budget_and_the_prompt_is_still_shared():
    """Prompts of 10 with two responses of 5, teacher's prompts of 20: 25 tokens a row, two rows in 60."""
    lengths, teacher = torch.full((8,), 5), [(7,) * 20] * 8
    groups = row_groups([(6,) * 10] * 4, 2, lengths, torch.arange(8), 60, teacher)
    assert groups == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_micro_batches_align_responses_with_their_tokens():
    batch = policy_batch(prompts=3, group_size=4, width=7)
    seen = []
    for micro in micro_batches(batch, torch.arange(len(batch)), 40):
        ends = micro.sampled.sum(dim=1).cumsum(0).tolist()
        assert len(micro.rows.targets) == ends[-1]
        for row, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            tokens = micro.rows.targets[start:end]
            old = micro.old_logprobs[row][micro.sampled[row]]
            match = [
                i
                for i in range(len(batch))
                if torch.equal(batch.response_ids[i][batch.response_mask[i]], tokens)
                and torch.equal(batch.old_logprobs[i][batch.response_mask[i]], old)
            ]
            assert len(match) == 1
            prompt = batch.prompt_ids[match[0] // 4]
            assert micro.rows.input_ids[micro.rows.predecessors.index[start]] == prompt[-1]
            seen += match
    assert sorted(seen) == list(range(len(batch)))


def test_idle_micro_batch_has_no_tokens_to_train():
    micro = idle_micro_batch(policy_batch(prompts=2, group_size=2, width=3))
    assert len(micro.rows.targets) == micro.rows.predecessors.index.numel() == 0
    assert not micro.sampled.any()
    assert len(micro.sampled) == 1
    assert len(micro.rows.input_ids) > 0


def tensors(value) -> list[torch.Tensor]:
    """Of a record and the records in it."""
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in fields(value))
    return [each for item in value for each in tensors(item)] if isinstance(value, tuple) else []


def test_all_of_a_micro_batch_moves_to_another_device():
    batch = policy_batch(prompts=2, group_size=2, width=5)
    values = ValueTargets(old_values=batch.old_logprobs, returns=batch.old_logprobs)
    batch = replace(
        batch, ref_logprobs=batch.old_logprobs, teacher_prompt_ids=((3, 4),) * 4, value_targets=values
    )
    (micro,) = micro_batches(batch, torch.arange(4), 1000)
    moved = tensors(micro.to(torch.device("meta")))
    # Four of its own, two of the critic's, and of each packed rows seven and three for every block.
    blocks = len(micro.rows.layout.blocks) + len(micro.teacher_rows.layout.blocks)
    assert len(moved) == 4 + 2 + 2 * 7 + 3 * blocks
    assert {each.device.type for each in moved} == {"meta"}
    assert {each.device.type for each in tensors(micro)} == {"cpu"}


def test_mini_batches_keep_the_order():
    assert [rows.tolist() for rows in mini_batches(5, 2)] == [[0, 1], [2, 3], [4]]
