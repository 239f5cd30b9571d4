"""Responses that have been the same so far are one text, which is read once."""

from __future__ import annotations

import random

import pytest
import torch

from pipo.lm.cache import PreallocatedCache
from pipo.lm.decoding import DecodeStep
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from pipo.rollout.places import Places
from tests.policies import make_policy
from tests.toy import sampling


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_one_place_are_the_same_text_whatever_is_drawn(seed: int) -> None:
    """A model of the cache, in which a place holds the text that was read into it."""
    rng = random.Random(seed)
    rows, texts = [[row // 4] for row in range(12)], [[prompt] for prompt in range(3)]
    places = Places([row // 4 for row in range(12)], 3)
    batch, running = list(range(12)), list(range(12))
    for _ in range(12):
        drawn = [rng.randrange(2) for _ in batch]
        running = [place for place in running if rng.random() < 0.95]
        if not running:
            break
        for place in running:
            rows[batch[place]] = [*rows[batch[place]], drawn[place]]
        if rng.random() < 0.3:
            drawn, batch = [drawn[place] for place in running], [batch[place] for place in running]
            texts = [texts[old] for old in places.keep(running)]
            running = list(range(len(running)))
        before = places.count
        copies, readers = places.part(drawn, running)
        assert places.count == before + sum(target >= before for _, target in copies) <= len(batch)
        copied = {target: texts[source] for source, target in copies}
        texts = [copied[place] if place in copied else texts[place] for place in range(places.count)]
        texts = [[*text, drawn[reader]] for text, reader in zip(texts, readers, strict=True)]
        assert [texts[places.of_rows[place]] for place in running] == [
            rows[batch[place]] for place in running
        ]
        used = [texts[place] for place in places.used(running)]
        assert len(used) == len({tuple(text) for text in used}), "one text stands in two places"


def test_equal_responses_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy responses to a prompt are all the same, so that a step reads one token for each prompt."""
    policy, read = make_policy(), []
    decoder = policy.decoder

    def watching(cache: PreallocatedCache, positions: int) -> DecodeStep:
        step = decoder(cache, positions)

        def watched(tokens: torch.Tensor, at: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
            read.append(len(tokens))
            return step(tokens, at, visible)

        return watched

    monkeypatch.setattr(policy, "decoder", watching)
    engine = LocalEngine(policy, LocalEngineConfig(max_rows=64, compact_below=0.75))
    options = sampling(temperature=0.0, max_response_tokens=6, stop_token_ids=frozenset({0}))
    got = engine.generate([(5, 6, 7), (8,)], 4, options, seed=0)
    assert read
    assert max(read) <= 2
    assert torch.equal(got.response_ids[:4], got.response_ids[:1].expand(4, -1))
