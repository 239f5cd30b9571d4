"""Engines that are built, closed, refused and broken, and what they leave of the process they lived in."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipo.errors import ConfigError
from pipo.lm.attention import ATTENTION_NAME
from pipo.lm.policy import Policy
from pipo.rollout.engine import EngineFailed
from pipo.rollout.vllm import VllmEngine, vllm_engines
from tests.toy import sampling
from tests.vllm.conftest import config, disturb, full_logprobs, local, rows, tiny_policy

PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13), (14, 15), (3, 4, 5, 6), (7, 7)]
GREEDY = sampling(temperature=0.0, max_response_tokens=12)


@pytest.fixture
def policy() -> Policy:
    return tiny_policy()


@pytest.fixture
def engine(policy: Policy) -> Iterator[VllmEngine]:
    made = VllmEngine(policy, config())
    yield made
    made.close()


def test_waiting_requests_are_answered_in_order(policy):
    """48 responses, three at a time: the answers are those of an engine that takes all at once."""
    prompts, options = PROMPTS * 2, sampling(max_response_tokens=8)
    narrow, wide = (VllmEngine(policy, config(max_num_seqs=size)) for size in (3, 64))
    first = narrow.generate(prompts, 4, options, seed=1)
    narrow.close()
    second = wide.generate(prompts, 4, options, seed=1)
    wide.close()
    assert rows(first) == rows(second)


def test_an_untied_head_follows_too():
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256}
    qwen = Qwen3Config(vocab_size=48, **shape, **heads, tie_word_embeddings=False, initializer_range=0.3)
    qwen._attn_implementation = ATTENTION_NAME
    policy = Policy(Qwen3ForCausalLM(qwen))
    engine = VllmEngine(policy, config())
    first = rows(engine.generate(PROMPTS, 1, GREEDY, seed=0))
    assert first == rows(local(policy).generate(PROMPTS, 1, GREEDY, seed=0))
    with torch.no_grad():
        policy.head.weight.copy_(policy.head.weight.flip(0))
    engine.sync_weights(policy.named_parameters())
    second = rows(engine.generate(PROMPTS, 1, GREEDY, seed=0))
    engine.close()
    assert second == rows(local(policy).generate(PROMPTS, 1, GREEDY, seed=0)) != first


def test_the_engine_begins_with_the_weights_of_the_moment_it_wakes(policy, engine):
    disturb(policy, seed=9)  # as a checkpoint does that is read after the engine was made
    engine.sync_weights(policy.named_parameters())  # there is no engine yet
    assert not dist.is_initialized()
    engine.wake()
    assert rows(engine.generate(PROMPTS, 1, GREEDY, seed=0)) == rows(
        local(policy).generate(PROMPTS, 1, GREEDY, seed=0)
    )


def test_a_copy_in_bfloat16_differs_by_its_rounding(policy):
    engine = VllmEngine(policy, config(dtype="bfloat16"))
    got = engine.generate(PROMPTS, 8, sampling(max_response_tokens=16), seed=3)
    engine.close()
    gap = (got.logprobs[got.response_mask] - full_logprobs(policy, PROMPTS, got)).abs()
    # 8 bits of mantissa: a few hundredths; wrong weights would be whole nats away.
    assert 1e-4 < gap.mean() < 0.1


def process_state() -> dict[str, object]:
    return {
        "environment": dict(os.environ),
        "threads": (torch.set_num_threads, torch.get_num_threads()),
        "precision": torch.get_float32_matmul_precision(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "python": random.getstate(),
    }


def test_the_process_is_left_as_it_was(policy, engine):
    before = process_state()
    engine.wake()
    assert process_state() == before
    engine.generate(PROMPTS, 4, sampling(), seed=3)
    engine.sync_weights(policy.named_parameters())
    assert process_state() == before
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    engine.close()
    assert process_state() == before
    assert not dist.is_initialized()


def test_closing_leaves_a_process_group_that_was_there(policy):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    engine = VllmEngine(policy, config())
    engine.wake()
    engine.close()
    gc.collect()
    assert dist.is_initialized()
    dist.destroy_process_group()


def test_an_engine_that_is_collected_late_does_not_take_the_next_ones_group(policy):
    first = VllmEngine(policy, config())
    first.wake()
    kept = first._llm
    first.close()
    second = VllmEngine(policy, config())
    second.wake()
    del first, kept
    gc.collect()
    assert dist.is_initialized()
    assert len(second.generate(PROMPTS, 1, GREEDY, seed=0).finished) == len(PROMPTS)
    second.close()


def test_an_engine_ahead_of_the_trainers_process_group_is_refused(policy, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="after the trainer's process group"):
        VllmEngine(policy, config()).wake()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_model_len": 100_000}, "max_model_len"),
        ({"cpu_kv_cache_gib": 1e-6}, "cache blocks"),
        ({"tensor_parallel_size": 2}, "does not divide the 1 processes"),
    ],
)
def test_what_vllm_cannot_do_is_one_configuration_error(policy, changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        VllmEngine(policy, config(**changes)).wake()
    assert "\n" not in str(caught.value)


def test_a_prompt_that_is_too_long_is_a_configuration_error(policy):
    engine = VllmEngine(policy, config(max_model_len=32))
    with pytest.raises(ConfigError, match="32"):
        engine.generate([tuple([5] * 40)], 1, GREEDY, seed=0)
    engine.close()


def test_a_broken_engine_is_one_clear_error(engine):
    engine.wake()

    def die(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nmemory")

    engine._llm.apply_model(lambda model: setattr(model, "compute_logits", die))
    with pytest.raises(EngineFailed, match="failed while sampling: RuntimeError: out of memory"):
        engine.generate(PROMPTS, 1, GREEDY, seed=0)


def test_the_factory_gives_engines():
    policy = tiny_policy()
    engine = vllm_engines(config())(policy)
    assert engine.policy is policy
    assert not engine.shares_weights
