"""The plan of a run: its arithmetic against numbers worked out by hand, its passes against real tensors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import Qwen3Config

from pipo.config.cli import CONF
from pipo.errors import ConfigError
from pipo.lm.options import Sharding
from pipo.plan import memory
from pipo.plan.__main__ import main
from pipo.plan.ledger import Ledger
from pipo.plan.lengths import Lengths
from pipo.plan.memory import Held
from pipo.plan.options import Gpu, Machine, assumptions, known_shapes, machine
from pipo.plan.passes import Passes, PassPeaks, pass_peaks
from pipo.plan.plan import plan
from pipo.plan.seconds import Clock
from pipo.plan.sizes import Shape, Sizes
from pipo.rollout.local import LocalEngineConfig
from pipo.rollout.vllm import VllmConfig
from tests.toy import grpo

GIB = 2**30
# No overhead, and every rate as high as it can be.
PURE = assumptions(
    [
        *(f"{name}=0" for name in ("context_gib", "fragments", "cycle_s")),
        *(f"{name}=1" for name in ("slowest", "train_share", "memory_share", "link_share")),
        *("engine_gib=3", "host_gib=4", "step_s=0.001", "layer_s=0.01", "prompt_share=1", "response_share=1"),
    ]
)
GPU = Gpu(memory_gib=80, bfloat16_tflops=100, float32_tflops=10, memory_gb_s=1000, link_gb_s=100)
VLLM = VllmConfig(
    dtype="bfloat16",
    max_num_seqs=256,
    max_model_len=None,
    gpu_memory_utilization=0.5,
    cpu_kv_cache_gib=1.0,
    enforce_eager=False,
    tensor_parallel_size=1,
    sleep=True,
)
SHARDED = Sharding(reduce_dtype="float32", cpu_offload=False)
# A model of 1024 Mi parameters; of them 100 x 1000 in the head, which is the embedding.
SHAPE = Shape(
    layers=4, width=100, vocabulary=1000, heads=8, kv_heads=2, head_dim=16, tied=True, positions=512
)
PEAKS = PassPeaks(
    parameters=GIB, scoring={"activations": GIB}, update={"activations": 3 * GIB, "gradients": 4 * GIB}
)
HELD = Held(policy=PEAKS, retrospective=PEAKS, critic=None, sharding=SHARDED, exchanges=False)
SIZES = Sizes(
    processes=8,
    per_node=8,
    nodes=1,
    rows=16,
    group=8,
    step_rows=8,
    budget=100,
    longest_prompt=20,
    longest_response=30,
    prompt=20.0,
    response=30.0,
    rounds=1.0,
    products=2,
    scorings=2,
    reference=True,
    critic=False,
    teacher=False,
    distils=False,
    look_back="device",
    retrospective=1.0,
    engine=VLLM,
)


# ------------------------------------------------------------------ memory


def test_shards_of_what_stands_always():
    # 2^30 parameters in float32 are 4 GiB, an eighth of it half a GiB; twice that for AdamW's moments.
    half = GIB // 2
    assert memory.standing(HELD, SIZES) == {
        "weights": half,
        "moments": GIB,
        "reference": half,
        "copy for the measurement": half,
    }
    assert "copy for the measurement" not in memory.on_gpu(HELD, replace(SIZES, look_back="cpu"))
    offloaded = replace(HELD, sharding=SHARDED.model_copy(update={"cpu_offload": True}))
    assert memory.on_gpu(offloaded, SIZES) == {}


def test_whole_weights_whose_gradients_are_averaged():
    # 4 GiB of weights, 8 of moments, and a bucket for every gradient, 4.
    whole = replace(HELD, sharding=None, exchanges=True)
    found = memory.standing(whole, replace(SIZES, reference=False, look_back=None))
    assert found == {"weights": 4 * GIB, "moments": 8 * GIB, "exchange buffers": 4 * GIB}


def test_the_phases_of_a_run_with_vllm():
    found = {phase.name: phase for phase in memory.phases(HELD, SIZES, SHAPE, GPU, PURE)}
    assert list(found) == ["sampling", "scoring", "look-back", "retrospective update", "update", "sync"]
    # Half of 80 GiB is vLLM's: 2 for weights in bfloat16, 3 as assumed, 35 for the cache; 2.5 stand always.
    assert found["sampling"].parts["key-value cache"] == 35 * GIB
    assert found["sampling"].total == 42.5 * GIB
    assert found["scoring"].total == 3.5 * GIB
    assert found["update"].total == 9.5 * GIB
    # The engine's weights, and the embedding on its way: 100,000 numbers of 2 bytes.
    assert found["sync"].total == 4.5 * GIB + 200_000
    awake = replace(SIZES, engine=VLLM.model_copy(update={"sleep": False}))
    kept = {phase.name: phase.total for phase in memory.phases(HELD, awake, SHAPE, GPU, PURE)}
    assert kept["update"] == 49.5 * GIB


def test_what_is_lost_between_tensors_leaves_out_the_share_of_vllm():
    assume = PURE.model_copy(update={"fragments": 0.1, "context_gib": 1.0})
    found = {phase.name: phase.total for phase in memory.phases(HELD, SIZES, SHAPE, GPU, assume)}
    assert found["sampling"] == 42.5 * GIB + round(0.25 * GIB) + GIB
    assert found["scoring"] == 3.5 * GIB + round(0.35 * GIB) + GIB


def test_the_step_counts_where_it_takes_more_than_the_passes():
    small = replace(PEAKS, update={"activations": GIB // 4})
    held = replace(HELD, policy=small, retrospective=small)
    found = {phase.name: phase for phase in memory.phases(held, SIZES, SHAPE, GPU, PURE)}
    # Half a GiB of gradients, and the roots of as many second moments.
    assert found["update"].total == 2.5 * GIB + GIB


def test_the_local_engine_gathers_the_model_and_keeps_keys_and_values():
    sizes = replace(SIZES, engine=LocalEngineConfig(max_rows=12, compact_below=0.75))
    found = memory.phases(HELD, sizes, SHAPE, GPU, PURE)[0].parts
    assert found["gathered weights"] == 2 * GIB
    # 12 rows at a time are one whole group of 8; 50 tokens each; keys and values of 2 heads of 16 numbers
    # of 2 bytes are 128 bytes a layer; 4 layers and one more while rows are dropped.
    assert found["key-value cache"] == 8 * 50 * 128 * 5
    assert found["logits"] == 8 * 1000 * (3 * 4 + 2)
    whole = replace(HELD, sharding=None)
    parts = memory.phases(whole, replace(sizes, products=4), SHAPE, GPU, PURE)[0].parts
    assert "gathered weights" not in parts


def test_the_cache_that_vllm_needs():
    # 4 layers x 2 heads x 16 numbers x keys and values x 2 bytes: 512 bytes a token; and 512 positions.
    longest, expected, most = memory.cache_needs(SIZES, SHAPE)
    assert longest == 512 * 512
    assert most == 16 * 50 * 512
    assert expected == most  # all responses have the full length


def test_main_memory_and_disk():
    host = memory.host_memory(HELD, replace(SIZES, look_back="cpu"), PURE)
    # Eight processes of 4 GiB without weights; each reads the whole model, 4 GiB, and keeps a copy of 0.5.
    assert host["loading"] == 8 * (4 + 4 + 0.5) * GIB
    assert host["training"] == (8 * 4.5 + 4) * GIB
    # Weights, two moments and the copy of 2^30 parameters in float32.
    assert memory.checkpoint_bytes(HELD, SIZES) == 16 * GIB
    assert memory.checkpoint_bytes(HELD, replace(SIZES, look_back=None)) == 12 * GIB


# ------------------------------------------------------------------ time


def test_seconds_of_scoring_and_update():
    clock = Clock(held=HELD, sizes=SIZES, shape=SHAPE, gpu=GPU, assume=PURE)
    # 16 rows of 30 tokens, and two prompts of 20. A pass takes two operations per weight, and attention over
    # half of 50 tokens 2 x 4 layers x 8 heads x 16 x 50.
    layers = GIB - 100_000
    forward = 520 * (2 * layers + 51_200)
    head = 2 * 100_000 * 480
    logits = 1000 * 480
    scoring = (forward + head) / 100e12 + 40 * logits / 1e12
    # Gathering 7/8 of 2 GiB over 100 GB/s takes longer, in each of 6 passes of 100 tokens.
    gather = 2 * GIB * 7 / 8 / 100e9
    assert clock.scoring() == pytest.approx(6 * gather)
    alone = replace(clock, held=replace(HELD, sharding=None))
    assert alone.scoring() == pytest.approx(scoring)
    # Two steps; of the head four products, and a single block of 32 Mi logits or less for all 480 tokens.
    update = (4 * forward + 4 * head) / 100e12 + (86 * logits + 12 * 100_000 * 480 / 33_554) / 1e12
    adamw = 2 * 28 * GIB / 1e12
    assert alone.update(1.0, checkpointing=True) == pytest.approx(update + adamw)
    assert alone.update(1.0, checkpointing=False) < alone.update(1.0, checkpointing=True)


def test_seconds_of_sampling():
    # 30 steps of full length: 1 ms each, and 2 GiB of weights and the cache of 16 rows at 1000 GB/s.
    clock = Clock(held=HELD, sizes=SIZES, shape=SHAPE, gpu=GPU, assume=PURE)
    cache = sum(16 * (20 + step) * 512 for step in range(30))
    prompts = 2 * 20 * (2 * (GIB - 100_000) + 51_200) / 100e12
    expected = 30 * (0.001 + 2 * GIB / 1e12) + cache / 1e12 + prompts
    assert clock.sampling(16, 128) == pytest.approx(expected)


def test_lengths_fall_off_and_are_cut():
    full = Lengths.of(30.0, 30)
    assert [full.alive(0), full.alive(29), full.alive(30)] == [1.0, 1.0, 0.0]
    half = Lengths.of(15.0, 30)
    assert sum(half.alive(token) for token in range(30)) == pytest.approx(15)
    # Of two responses at least one: 1 - (1 - a)^2.
    assert half.any_alive(9, 2) == pytest.approx(1 - (1 - half.alive(9)) ** 2)


# ------------------------------------------------------------------ what a run says


def test_a_full_micro_batch():
    # Of 18,432 tokens the prompt takes 1,024; four responses of 4,096 leave 1,024 for a fifth.
    paper = replace(SIZES, budget=18432, longest_prompt=1024, longest_response=4096, step_rows=64)
    assert paper.full_micro_batch() == (1024, (4096, 4096, 4096, 4096, 1024))
    # Prompts of their own; the third would leave nothing for its response.
    alone = replace(SIZES, budget=100, longest_prompt=20, longest_response=25, group=1)
    assert alone.full_micro_batch() == (20, (25, 25))
    # A row that is longer than the budget has a micro-batch of its own.
    assert replace(SIZES, budget=10).full_micro_batch() == (20, (30,))
    # Tokens of a step: 8 x 30 and one prompt.
    assert SIZES.micro_batches == math.ceil((8 * 30 + 20) / 100)


def test_gpus_and_assumptions_are_named():
    assert machine("8xH100-80").count == 8
    assert machine("L40S-48").count == 1
    with pytest.raises(ConfigError, match="did you mean H100-80"):
        machine("8xH100-8")
    with pytest.raises(ConfigError, match=r"assume\.train_share"):
        assumptions(["train_share=2"])


def test_the_table_has_every_model_of_the_hub():
    paths = [yaml.safe_load(file.read_text())["path"] for file in (CONF / "model").glob("qwen*.yaml")]
    assert set(paths) == set(known_shapes())


# ------------------------------------------------------------------ passes


def test_a_ledger_counts_what_is_held_at_once():
    mebi = 2**20
    ledger = Ledger("first")
    before = torch.ones(mebi)
    ledger.ignore([before])
    with ledger:
        a = before + 1  # 4 MiB
        ledger.part = "second"
        b = a.double()  # 8 MiB
        before.add_(1)
        del a
        c = b[:10] + 1  # 80 bytes take 512
        del b, c
    assert ledger.peak == {"first": 4 * mebi, "second": 8 * mebi}


def test_passes_keep_the_gradients_of_micro_batches_whole():
    # Without bias: embedding and head 50 x 32; a layer has 4 + 2 + 2 + 4 heads of 8 x 32 in attention,
    # 3 x 32 x 48, and norms of 2 x 32 and 2 x 8; a last norm of 32.
    parameters = 50 * 32 + 2 * (12 * 8 * 32 + 3 * 32 * 48 + 2 * 32 + 2 * 8) + 32
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
    )
    passes = Passes(
        processes=2,
        sharding=SHARDED,
        compute_dtype="bfloat16",
        gradient_checkpointing=False,
        model="policy",
        prompt=4,
        responses=(9, 7),
        group_size=2,
        teacher_prompt=None,
        accumulates=True,
    )
    found = pass_peaks(config, grpo(), passes)
    assert found.parameters == parameters
    # Every tensor is rounded up to 512 bytes, of which there are 24.
    assert 4 * parameters <= found.update["gradients"] <= 4 * parameters + 24 * 512
    assert "gradients" not in found.scoring
    once = pass_peaks(config, grpo(), replace(passes, accumulates=False))
    assert sum(once.update.values()) < sum(found.update.values())


# ------------------------------------------------------------------ the program

SMALL = Gpu(memory_gib=0.1, bfloat16_tflops=1, float32_tflops=1, memory_gb_s=100, link_gb_s=10)


def test_what_does_not_fit_is_said_with_what_would():
    bare = PURE.model_copy(update={"engine_gib": 0.0})
    sizes = ("recipe.responses=2048", "recipe.mini_batch=2048", "strategy.tokens_per_micro_batch=100000")
    settings = ("model=tiny", *sizes)
    roomy = Machine(name="1xroomy", count=1, gpu=SMALL.model_copy(update={"memory_gib": 64.0}))
    fits = plan(settings, roomy, bare)
    assert (fits.limits, fits.changes) == ((), ())
    update = next(phase.total for phase in fits.phases if phase.name == "update")
    others = max(phase.total for phase in fits.phases if "update" not in phase.name)
    between = Machine(
        name="1xbetween", count=1, gpu=SMALL.model_copy(update={"memory_gib": (update + others) / 2 / GIB})
    )
    tight = plan(settings, between, bare)
    assert [limit.partition(":")[0] for limit in tight.limits] == ["retrospective update", "update"]
    assert tight.changes
    assert plan((*settings, *tight.changes), between, bare).limits == ()


def test_the_program_refuses_in_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        main(["model=tiny"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: gpus=: name the GPUs of a node, for example gpus=8xH100-80\n"
