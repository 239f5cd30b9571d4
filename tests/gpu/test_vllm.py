"""The vLLM engine where a GPU is: the same claims as on a CPU, in bfloat16 and with sleep."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from pipo.lm.policy import load_policy
from pipo.rollout.vllm import VllmConfig, VllmEngine
from tests.conftest import ROOT
from tests.toy import sampling
from tests.vllm.conftest import disturb, full_logprobs, local, rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="pip install 'pipo[vllm]'"),
]
PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13), (14, 15), (3, 4, 5, 6), (7, 7)]


def make(dtype: str, **changes) -> VllmEngine:
    options = {
        "max_num_seqs": 64,
        "max_model_len": None,
        "gpu_memory_utilization": 0.3,
        "cpu_kv_cache_gib": 1.0,
        "enforce_eager": False,
        "tensor_parallel_size": 1,
        "sleep": True,
    }
    policy = load_policy(str(ROOT / "pipo/lm/assets/tiny"), "float32").cuda()
    return VllmEngine(policy, VllmConfig(dtype=dtype, **{**options, **changes}))


@pytest.mark.parametrize(("dtype", "mean"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_logprobs_and_three_updates(dtype, mean):
    """Kernels in another order, or 8 bits of mantissa; other weights would be nats away."""
    engine = make(dtype)
    for step in range(3):
        got = engine.generate(PROMPTS, 8, sampling(max_response_tokens=16), seed=3)
        on_cpu = load_policy(str(ROOT / "pipo/lm/assets/tiny"), "float32")
        on_cpu.load_state_dict(engine.policy.state_dict())
        gap = got.logprobs[got.response_mask] - full_logprobs(on_cpu, PROMPTS, got)
        assert gap.abs().mean() < mean
        on_cpu = on_cpu.cpu()
        disturb(on_cpu, seed=step)
        engine.policy.load_state_dict(on_cpu.state_dict())
        engine.sync_weights(engine.policy.named_parameters())
    engine.close()


def test_sleep_gives_memory_back_and_waking_brings_the_new_weights():
    engine = make("float32")
    options = sampling(temperature=0.0, max_response_tokens=12)
    engine.generate(PROMPTS, 1, options, seed=0)
    awake = torch.cuda.mem_get_info()[0]
    engine.sleep()
    asleep = torch.cuda.mem_get_info()[0]
    # The key-value cache alone is most of 30 % of the device.
    assert asleep - awake > 0.1 * torch.cuda.get_device_properties(0).total_memory
    moved = load_policy(str(ROOT / "pipo/lm/assets/tiny"), "float32")
    disturb(moved, seed=1)
    engine.policy.load_state_dict(moved.state_dict())
    engine.sync_weights(engine.policy.named_parameters())
    engine.wake()
    got = rows(engine.generate(PROMPTS, 1, options, seed=0))
    assert got == rows(local(engine.policy).generate(PROMPTS, 1, options, seed=0))
    engine.sleep()
    engine.wake()  # without an update in between: the weights come from the policy again
    assert rows(engine.generate(PROMPTS, 1, options, seed=0)) == got
    engine.close()
