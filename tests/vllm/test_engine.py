"""The real engine against the local one and against a full forward pass, in float32 on a CPU."""

from __future__ import annotations

import pytest
import torch

from tests.toy import sampling
from tests.vllm.conftest import disturb, full_logprobs, local, rows

PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13), (14, 15), (3, 4, 5, 6), (7, 7)]
# Two blocks of the prefix cache (128 tokens each on a CPU) and a bit, so that prompts are read from it.
LONG = [tuple(3 + (7 * i + j) % 15 for i in range(280)) for j in range(4)]
# float32 sums in another order: 2e-5 was measured at most, and another weight moves hundredths and more.
CLOSE = 1e-4
GREEDY = sampling(temperature=0.0, max_response_tokens=12)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_logprobs_equal_a_full_forward_pass(policy, engine, temperature):
    options = sampling(temperature=temperature, max_response_tokens=16)
    got = engine.generate(PROMPTS, 4, options, seed=3)
    expected = full_logprobs(policy, PROMPTS, got, temperature)
    torch.testing.assert_close(got.logprobs[got.response_mask], expected, rtol=0, atol=CLOSE)
    assert (got.logprobs[~got.response_mask] == 0).all()
    assert (got.response_ids[~got.response_mask] == 0).all()


def test_greedy_tokens_and_their_logprobs_equal_the_local_engine(policy, engine):
    got, expected = (one.generate(PROMPTS, 3, GREEDY, seed=0) for one in (engine, local(policy)))
    assert rows(got) == rows(expected)
    assert torch.equal(got.finished, expected.finished)
    torch.testing.assert_close(got.logprobs, expected.logprobs, rtol=0, atol=CLOSE)
    assert len({len(row) for row in rows(got)}) > 1


def test_seeds(engine):
    options = sampling(temperature=2.0, max_response_tokens=16)
    first = rows(engine.generate(PROMPTS, 4, options, seed=3))
    assert rows(engine.generate(PROMPTS, 4, options, seed=3)) == first
    assert rows(engine.generate(PROMPTS, 4, options, seed=4)) != first
    # The same prompt twice draws twice, and the responses of a group differ.
    twice = rows(engine.generate([PROMPTS[0]] * 2, 4, options, seed=3))
    assert len({tuple(row) for row in twice}) == 8


def test_a_response_ends_with_its_stop_token_or_is_cut(engine):
    got = engine.generate(PROMPTS, 8, sampling(max_response_tokens=6), seed=1)
    for response, finished in zip(rows(got), got.finished.tolist(), strict=True):
        assert 1 not in response[:-1]
        assert finished == (response[-1] == 1)
        assert finished or len(response) == 6
    assert 0 < int(got.finished.sum()) < len(got.finished)


def test_frequencies_are_those_of_the_policy(policy, engine):
    """First tokens of 4,000 draws against the probabilities, at a temperature."""
    options = sampling(temperature=2.0, max_response_tokens=1)
    got = engine.generate([PROMPTS[0]], 4000, options, seed=11)
    counts = torch.bincount(got.response_ids[:, 0], minlength=len(policy.head.weight)).double()
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        logits = policy.model(ids).logits[0, -1].double()
    expected = 4000 * torch.softmax(logits / 2.0, dim=0)
    large = expected > 20
    # Pearson's statistic is chi-squared with (cells - 1) degrees: mean k, deviation sqrt(2 k).
    cells = int(large.sum())
    statistic = ((counts - expected) ** 2 / expected)[large].sum().item()
    assert cells > 5
    assert statistic < cells + 5 * (2 * cells) ** 0.5


def test_cuts_keep_the_likely_tokens(policy, engine):
    greedy = engine.generate(PROMPTS, 1, GREEDY, seed=0)
    top = engine.generate(PROMPTS, 1, sampling(top_k=1, max_response_tokens=12), seed=5)
    assert rows(greedy) == rows(top)
    # What is left after the cut is one token: its probability is 1.
    assert top.logprobs.abs().max() < 1e-6
    nucleus = engine.generate(PROMPTS, 1, sampling(top_p=1e-6, max_response_tokens=12), seed=5)
    assert rows(nucleus) == rows(greedy)


def test_after_an_update_the_engine_is_the_new_policy(policy, engine):
    """Three updates in a row; the same long prompts each time, which the prefix cache knows."""
    seen = [rows(engine.generate(LONG, 1, GREEDY, seed=0))]
    for step in range(3):
        disturb(policy, seed=step)
        stale = rows(engine.generate(LONG, 1, GREEDY, seed=0))
        assert stale == seen[-1]  # until it is told
        engine.sync_weights(policy.named_parameters())
        got = engine.generate(LONG, 1, GREEDY, seed=0)
        expected = local(policy).generate(LONG, 1, GREEDY, seed=0)
        assert rows(got) == rows(expected) != stale
        torch.testing.assert_close(got.logprobs, expected.logprobs, rtol=0, atol=CLOSE)
        seen.append(rows(got))


@pytest.mark.parametrize(
    "name", ["embed_tokens", "layers.0.self_attn.q_proj", "layers.1.mlp.down_proj", "norm", "q_norm"]
)
def test_one_changed_weight_arrives(policy, engine, name):
    """One number of one parameter, among them that of the output head that is tied to the embeddings."""
    prompts, options = [(5, 6, 7)], sampling(max_response_tokens=8, stop_token_ids=frozenset())
    before = engine.generate(prompts, 1, options, seed=1)
    chosen = next(p for key, p in policy.named_parameters() if f"{name}.weight" in key)
    with torch.no_grad():
        chosen.view(-1)[3 * chosen.shape[-1] if name == "embed_tokens" else 0] += 4.0
    engine.sync_weights(policy.named_parameters())
    after = engine.generate(prompts, 1, options, seed=1)
    expected = full_logprobs(policy, prompts, after)
    torch.testing.assert_close(after.logprobs[0], expected, rtol=0, atol=CLOSE)
    assert (full_logprobs(policy, prompts, before) - before.logprobs[0]).abs().max() > 10 * CLOSE


def test_sleeping_on_a_cpu_gives_nothing_back_and_loses_nothing(engine):
    first = rows(engine.generate(PROMPTS, 1, GREEDY, seed=0))
    engine.sleep()
    engine.wake()
    assert rows(engine.generate(PROMPTS, 1, GREEDY, seed=0)) == first


def test_no_prompts_give_no_responses(engine):
    assert len(engine.generate([], 4, GREEDY, seed=0).finished) == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_responses_are_handed_over_as_their_groups_finish(engine, temperature):
    """Each once, before the call returns, and in another order than that of the result."""
    told: list[tuple[int, tuple[int, ...]]] = []
    options = sampling(temperature=temperature, max_response_tokens=24)
    got = engine.generate(PROMPTS, 3, options, seed=2, on_finished=lambda row, ids: told.append((row, ids)))
    assert [ids for _, ids in sorted(told)] == [
        tuple(row[mask].tolist()) for row, mask in zip(got.response_ids, got.response_mask, strict=True)
    ]
    assert sorted(row for row, _ in told) == list(range(3 * len(PROMPTS)))
    assert rows(got) == rows(engine.generate(PROMPTS, 3, options, seed=2))
