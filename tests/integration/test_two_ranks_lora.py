"""Two processes, with whole weights and with shards, train the adapters that one process trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipo.lm.policy import load_weights
from tests import toy
from tests.integration.test_two_ranks import assert_as_one_process, both, start_both

pytestmark = pytest.mark.slow

CASES = [
    "fsdp:grpo:default:lora:export",
    "fsdp:ppo:default:lora",
    "fsdp:sdpo_official:default:lora:resume",
    "ddp:grpo:controlled:lora",
    *[f"{strategy}:{name}:default:lora" for strategy in ("ddp", "fsdp") for name in ("dapo", "gspo", "sdpo")],
    "fsdp:sdpo_official:default:lora",
    "ddp:ppo:default:lora:resume",
    "ddp:sdpo_official:default:lora",
    "fsdp:grpo:controlled:lora:resume",
    "fsdp:grpo:default:lora:local",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    start_both(out, CASES)
    return out


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_trains(trained, name):
    assert_as_one_process(trained, name)


def test_sharded_adapters_are_written_as_they_were_trained(trained):
    (weights, _), _ = both(trained, "fsdp:grpo:default:lora:export")
    saved = load_file(trained / "adapter/adapter_model.safetensors")
    assert len(weights[-1]) == len(saved) == 12
    for name, value in saved.items():
        key = name.replace("base_model.model.", "policy.model.").replace(".weight", ".default.weight")
        assert torch.equal(weights[-1][key], value)


def test_a_checkpoint_in_shards_holds_adapters_alone(trained):
    """The policy's, their two moments and the averaged teacher's: four times what is trained."""
    folder = trained / "fsdp-sdpo_official-default-lora-resume-2.ckpt"
    policy = toy.adapted_policy()
    trained = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    saved = sum(file.stat().st_size for file in folder.rglob("*.distcp"))
    # Each tensor is a small archive of its own in the file, of about a kilobyte.
    assert 16 * trained <= saved < 16 * trained + 2 * 4 * 12 * 2048
    before = [weight.detach().clone() for weight in policy.parameters() if weight.requires_grad]
    load_weights(policy, folder)
    after = [weight for weight in policy.parameters() if weight.requires_grad]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
