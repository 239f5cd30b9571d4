"""The engine under test and what it is compared with."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

from pipo.lm.packing import pack
from pipo.lm.policy import Policy, load_policy
from pipo.records.rollouts import Completions, TokenIds
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from pipo.rollout.vllm import VllmConfig, VllmEngine
from tests.conftest import ROOT

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
TINY = str(ROOT / "pipo/lm/assets/tiny")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = importlib.util.find_spec("vllm") is None
    for item in items:
        if "tests/vllm/" in item.path.as_posix():
            item.add_marker(pytest.mark.vllm)
            if missing:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed: make test-vllm"))


def config(**changes) -> VllmConfig:
    options = {
        "dtype": "float32",
        "max_num_seqs": 64,
        "max_model_len": None,
        "gpu_memory_utilization": 0.3,
        "cpu_kv_cache_gib": 0.125,
        "enforce_eager": True,
        "tensor_parallel_size": 1,
        "sleep": True,
    }
    return VllmConfig(**{**options, **changes})


def tiny_policy() -> Policy:
    return load_policy(TINY, "float32")


def disturb(policy: Policy, seed: int) -> None:
    """Other weights, 30 % away: enough for other greedy tokens, too little for nonsense."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            scale = parameter.std() if parameter.dim() > 1 else parameter.abs().mean()
            parameter += 0.3 * scale * torch.randn(parameter.shape, generator=generator)


def local(policy: Policy) -> LocalEngine:
    return LocalEngine(policy, LocalEngineConfig(max_rows=512, compact_below=0.75))


def rows(completions: Completions) -> list[list[int]]:
    pairs = zip(completions.response_ids, completions.response_mask, strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


def full_logprobs(
    policy: Policy, prompts: list[TokenIds], completions: Completions, temperature: float = 1.0
) -> torch.Tensor:
    """One teacher-forced forward pass over prompts and responses; [number of response tokens]."""
    count = len(completions.finished)
    group_size = count // len(prompts)
    drawn = completions.response_ids, completions.lengths, completions.sampled
    packed = pack(prompts, group_size, *drawn, range(count))
    with torch.no_grad():
        return policy(packed, temperature)


@pytest.fixture(scope="module")
def shared() -> Iterator[VllmEngine]:
    """One engine for the tests of a file, because building one takes seconds."""
    engine = VllmEngine(tiny_policy(), config())
    yield engine
    engine.close()


@pytest.fixture
def policy(shared: VllmEngine) -> Policy:
    """The policy of the shared engine, as it came."""
    shared.policy.load_state_dict(tiny_policy().state_dict())
    return shared.policy


@pytest.fixture
def engine(policy: Policy, shared: VllmEngine) -> VllmEngine:
    """The shared engine on the policy as it came."""
    shared.sync_weights(policy.named_parameters())
    return shared
