"""What is set for GPUs, as far as it can be told without one; see also tests/simulated_cuda."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from pipo.lm.logprobs import row_blocks
from pipo.lm.options import Sharding
from pipo.lm.sharding import exchanges_each_pass
from pipo.rollout.vllm_process import _local_rank
from tests import toy
from tests.conftest import ROOT

GPU = torch.device("cuda", 3)
OPEN = Sharding(reduce_dtype="float32", gradient_exchange=None, cpu_offload=False)
# Parameters of Qwen3 models, and bytes of an H100's memory.
SMALL, LARGE, H100 = 596_049_920, 4_022_468_096, 80 * 2**30


def test_attention_makes_no_plans_for_shapes():
    """Imported with the model; torch has it switched on by itself."""
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_blocks_of_the_head_are_large_and_aligned_on_a_gpu():
    """A micro-batch of 18,432 tokens of Qwen3: 220 rows to a block would be 84 passes over the gradient."""
    blocks = row_blocks(18_432, 151_936, GPU)
    assert len(blocks) == 6
    assert all(block.start % 128 == 0 for block in blocks)
    assert 0.45 * 2**30 < (blocks[0].stop - blocks[0].start) * 151_936 <= 2**29
    # Columns of the head's gradient at its width, and a vocabulary whose smallest block would be too large.
    assert all(part.start % 128 == 0 for part in row_blocks(10**6, 2560, GPU))
    assert row_blocks(256, 2**24, GPU) == [slice(0, 128), slice(128, 256)]
    assert row_blocks(440, 151_936, torch.device("cpu")) == [slice(0, 220), slice(220, 440)]


@pytest.mark.parametrize(
    ("choice", "parameters", "memory", "expected"),
    [
        (None, LARGE, H100, True),  # 15 GiB of gradient, more than a sixteenth of 80
        (None, SMALL, H100, False),  # 2.2 GiB
        (None, LARGE, None, False),  # a CPU
        ("step", LARGE, H100, False),
        ("micro_batch", SMALL, None, True),
    ],
)
def test_gradients_are_exchanged_as_told_or_as_fits(choice, parameters, memory, expected):
    options = OPEN.model_copy(update={"gradient_exchange": choice})
    assert exchanges_each_pass(options, parameters, memory) == expected


def test_half_as_precise_gradients_need_half_the_room():
    options = OPEN.model_copy(update={"reduce_dtype": "bfloat16"})
    assert exchanges_each_pass(OPEN, LARGE // 2, H100)  # 7.5 GiB of the 5 that may be taken
    assert not exchanges_each_pass(options, LARGE // 2, H100)  # 3.7 GiB


def test_offloaded_weights_still_tell_the_engine_which_gpu(monkeypatch):
    """Under srun there is no LOCAL_RANK, and weights on the CPU name no GPU: all would take the first."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr("pipo.modules.model_holder.gpu_memory", lambda device: H100)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        module = toy.module(sharding=OPEN)
        module._device_mesh = {"data_parallel": init_device_mesh("cpu", (1,))}
        module._trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=GPU))
        module.configure_model()
    finally:
        dist.destroy_process_group()
    assert module.policy.head.weight.device.type == "cpu"
    assert module.policy.device == GPU
    assert _local_rank(module.policy.device) == 3


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_whoever_imports_the_package_has_threads_that_do_not_spin(given, expected):
    """A notebook too. The variable is read while torch is imported, so that must come later."""
    script = "import os, sys, pipo; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, **given, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [expected]
