"""The local engine against ``model.generate`` and against a full forward pass."""

from __future__ import annotations

import pytest
import torch

from pipo.lm.packing import pack
from pipo.lm.policy import Policy
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from tests.policies import make_policy
from tests.toy import sampling

PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13), (14, 15), (3, 4, 5, 6), (7, 7)]


def engine(policy: Policy, **changes) -> LocalEngine:
    return LocalEngine(policy, LocalEngineConfig(**{"max_rows": 64, "compact_below": 0.75, **changes}))


def rows(completions) -> list[list[int]]:
    pairs = zip(completions.response_ids, completions.response_mask, strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


def full_logprobs(policy: Policy, completions, group_size: int, temperature: float) -> torch.Tensor:
    """Teacher-forced, one forward pass over prompt and response."""
    every = range(len(completions.finished))
    drawn = completions.response_ids, completions.lengths, completions.sampled
    packed = pack(PROMPTS, group_size, *drawn, every)
    with torch.no_grad():
        return policy(packed, temperature)


def test_greedy_tokens_equal_generate(policy):
    options = sampling(temperature=0.0, max_response_tokens=12, stop_token_ids=frozenset({1, 2}))
    got = rows(engine(policy).generate(PROMPTS, 1, options, seed=0))
    for prompt, response in zip(PROMPTS, got, strict=True):
        expected = policy.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=[1, 2],
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert response == expected
    assert len({len(r) for r in got}) > 1, "all rows end together: the test would not see compaction"


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_logprobs_equal_a_full_forward_pass(policy, temperature):
    options = sampling(temperature=temperature, max_response_tokens=16)
    got = engine(policy).generate(PROMPTS, 4, options, seed=3)
    expected = full_logprobs(policy, got, 4, temperature)
    torch.testing.assert_close(got.logprobs[got.response_mask], expected, rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_tokens_however_rows_are_dropped(policy):
    options = sampling(max_response_tokens=16)
    first = engine(policy, compact_below=1.0).generate(PROMPTS, 4, options, seed=3)
    again = engine(policy, compact_below=0.1).generate(PROMPTS, 4, options, seed=3)
    other = engine(policy).generate(PROMPTS, 4, options, seed=4)
    assert rows(first) == rows(again)
    assert rows(first) != rows(other)


def test_waves_cover_all_prompts_in_order(policy):
    options = sampling(temperature=0.0, max_response_tokens=8)
    whole = engine(policy).generate(PROMPTS, 2, options, seed=0)
    waves = engine(policy, max_rows=3).generate(PROMPTS, 2, options, seed=0)
    assert rows(whole) == rows(waves)
    assert torch.equal(whole.finished, waves.finished)


def test_a_response_ends_with_its_stop_token_or_is_cut(policy):
    got = engine(policy).generate(PROMPTS, 8, sampling(max_response_tokens=6), seed=1)
    for response, finished in zip(rows(got), got.finished.tolist(), strict=True):
        assert 1 not in response[:-1]
        assert finished == (response[-1] == 1)
        assert finished or len(response) == 6
    assert 0 < int(got.finished.sum()) < len(got.finished)


def test_padding_is_zero_and_masked(policy):
    got = engine(policy).generate(PROMPTS, 4, sampling(max_response_tokens=12), seed=1)
    assert (got.response_ids[~got.response_mask] == 0).all()
    assert (got.logprobs[~got.response_mask] == 0).all()


def test_training_mode_is_restored_and_no_gradient_is_kept(policy):
    policy.train()
    got = engine(policy).generate(PROMPTS, 2, sampling(), seed=1)
    assert policy.training
    assert not got.logprobs.requires_grad


def test_top_k_one_is_greedy(policy):
    greedy = engine(policy).generate(PROMPTS, 1, sampling(temperature=0.0), seed=0)
    top = engine(policy).generate(PROMPTS, 1, sampling(top_k=1), seed=5)
    assert rows(greedy) == rows(top)


def test_the_policy_follows_its_weights(policy):
    before = rows(engine(policy).generate(PROMPTS, 1, sampling(temperature=0.0), seed=0))
    policy.load_state_dict(make_policy(seed=1).state_dict())
    assert rows(engine(policy).generate(PROMPTS, 1, sampling(temperature=0.0), seed=0)) != before


def test_a_wave_goes_as_the_example_in_its_docstring_says(policy, monkeypatch):
    """The draws are the example's; a dash there is 0 here. What is read afterwards, and where, follows."""
    draws, read = iter([[9, 1, 4, 4], [3, 0, 1, 2], [1, 5], [6]]), []
    next_token_logits, decoder = policy.next_token_logits, policy.decoder

    def drawn(logits, *_):
        tokens = next(draws)
        assert len(logits) == len(tokens)
        return torch.tensor(tokens), torch.zeros(len(tokens))

    def watched(ids, positions, cache, *mask, **options):
        read.append((ids.flatten().tolist(), positions.flatten().tolist(), cache.get_seq_length()))
        return next_token_logits(ids, positions, cache, *mask, **options)

    def watching(cache, positions):
        step = decoder(cache, positions)

        def watched(tokens, at, visible):
            read.append((tokens.tolist(), at.tolist(), cache.get_seq_length()))
            return step(tokens, at, visible)

        return watched

    monkeypatch.setattr("pipo.rollout.wave.sample_tokens", drawn)
    monkeypatch.setattr(policy, "next_token_logits", watched)
    monkeypatch.setattr(policy, "decoder", watching)
    options = sampling(max_response_tokens=4, stop_token_ids=frozenset({1}))
    got = engine(policy, compact_below=0.5).generate([(5, 6, 7), (8,)], 2, options, seed=0)
    assert rows(got) == [[9, 3, 1], [1], [4, 1], [4, 2, 5, 6]]
    assert got.finished.tolist() == [True, True, True, False]
    # Two prompts of width 3; then two texts at the position behind their own prompt, two again, and one.
    assert read == [
        ([5, 6, 7, 8, 0, 0], [0, 1, 2, 0, 1, 2], 0),
        ([9, 4], [3, 1], 3),
        ([3, 2], [4, 2], 4),
        ([5], [3], 5),
    ]


# ---------------------------------------------------------------- several turns

REPLIES = [(20, 21, 22), (23,), (24, 25), (26, 27, 28, 29)]


def three_turns(engine: LocalEngine, *, hold: bool) -> tuple[list[list[int]], torch.Tensor]:
    """Sampled tokens and log-probabilities of three turns in which every finished row gets a reply."""
    options = sampling(max_response_tokens=9, stop_token_ids=frozenset(range(1, 40, 4)))
    before = [prompt for prompt in PROMPTS for _ in range(2)]
    got = engine.generate(PROMPTS, 2, options, 3, hold=hold)
    said, scores = [], []
    for turn in range(3):
        said += rows(got)
        scores.append(got.logprobs[got.response_mask])
        going = got.finished.nonzero()[:, 0].tolist()
        assert len(going) > 3
        drawn = rows(got)
        before = [(*before[i], *drawn[i], *REPLIES[(turn + i) % 4]) for i in going]
        if turn < 2:
            more = {"hold": turn == 0, "continues": going} if hold else {}
            got = engine.generate(before, 1, options, 4 + turn, **more)
    return said, torch.cat(scores)


@pytest.mark.parametrize("compact_below", [1.0, 0.5])
def test_turns_go_on_from_what_was_held_as_if_all_were_read_anew(policy, compact_below, monkeypatch):
    anew, wanted = three_turns(engine(policy, compact_below=compact_below), hold=False)
    read = []
    next_token_logits = policy.next_token_logits

    def watched(ids, *more, **options):
        read.append(tuple(ids.shape))
        return next_token_logits(ids, *more, **options)

    monkeypatch.setattr(policy, "next_token_logits", watched)
    sampler = engine(policy, compact_below=compact_below)
    held, got = three_turns(sampler, hold=True)
    assert held == anew
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    # Read at once are the prompts, at most five tokens wide; then the stop token and at most four of a reply.
    assert [width for _, width in read if width > 1] == [5, 5, 5]
    assert sampler._held is None  # the last call held nothing


def test_what_is_held_goes_with_the_weights_and_where_several_waves_need_the_memory(policy):
    options = sampling(max_response_tokens=3)
    for let_go in ("sleep", "close", "wake"):
        sampler = engine(policy)
        sampler.generate(PROMPTS, 2, options, 0, hold=True)
        assert sampler._held is not None
        getattr(sampler, let_go)()
        assert sampler._held is None, let_go
    sampler.generate(PROMPTS, 2, options, 0, hold=True)
    sampler.sync_weights([])
    assert sampler._held is None
    sampler.generate(PROMPTS, 2, options, 0, hold=True)
    with pytest.raises(IndexError):
        sampler.generate([(1, 2, 3)], 1, options, 0, hold=True, continues=[99])
    assert sampler._held is None
    waves = engine(policy, max_rows=3)
    waves.generate(PROMPTS, 2, options, 0, hold=True)
    assert waves._held is None
    # And so are turns after several waves right, too.
    anew, _ = three_turns(engine(policy, max_rows=3), hold=False)
    assert three_turns(engine(policy, max_rows=3), hold=True)[0] == anew
