"""Several turns with the real engine: those of the local one, the earlier ones from the prefix cache."""

from __future__ import annotations

import torch

from pipo.rollout.turns import Conversations, converse
from tests import toy
from tests.vllm.conftest import local, rows
from tests.vllm.test_engine import CLOSE, LONG

# A turn ends with every third token, so that several turns have room.
GREEDY = toy.sampling(temperature=0.0, max_response_tokens=40, stop_token_ids=frozenset(range(1, 64, 3)))


class TwiceMore(toy.TalkingTask):
    """Says something to whatever the policy says."""

    def environment(self, example):
        return Always()


class Always(toy.Talking):
    def step(self, transcript):
        return toy.Reply(messages=(toy.Message(role="tool", content="8 9 10"),))


def talk(engine) -> Conversations:
    task = TwiceMore()
    return converse(
        engine,
        task,
        task.examples("train")[: len(LONG)],
        LONG,
        group_size=2,
        sampling=GREEDY,
        seed=3,
        decode=toy.decode,
        encode_reply=toy.encode_reply,
    )


def test_turns_are_those_of_the_local_engine_and_read_from_the_prefix_cache(policy, engine, monkeypatch):
    cached: list[int] = []
    engine.wake()
    step = engine._llm.llm_engine.step

    def watched():
        outputs = step()
        cached.extend(output.num_cached_tokens for output in outputs if output.finished)
        return outputs

    monkeypatch.setattr(engine._llm.llm_engine, "step", watched)
    got, expected = talk(engine), talk(local(policy))
    assert rows(got.completions) == rows(expected.completions)
    assert torch.equal(got.completions.sampled, expected.completions.sampled)
    assert (~got.completions.sampled & got.completions.response_mask).any()
    torch.testing.assert_close(got.completions.logprobs, expected.completions.logprobs, rtol=0, atol=CLOSE)
    assert got.episodes == expected.episodes
    assert got.episodes is not None
    further = sum(episode.turns - 1 for episode in got.episodes)
    assert further > len(got.episodes)  # more than two turns on average
    # Prompts of 280 tokens fill two blocks of 128. Every further turn finds at least these.
    assert sorted(cached)[-further:] >= [256] * further
