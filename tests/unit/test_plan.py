"""The plan of a run: its arithmetic against numbers worked out by hand, its passes against real tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml
from transformers import Qwen3Config

from pipo.build import build_objective
from pipo.errors import ConfigError
from pipo.home import CONF
from pipo.lm.options import Lora, Sharding
from pipo.plan import balance, memory
from pipo.plan.__main__ import main
from pipo.plan.ledger import Ledger
from pipo.plan.lengths import Lengths
from pipo.plan.memory import Held
from pipo.plan.options import Gpu, Machine, assumptions, known_shapes, machine
from pipo.plan.passes import Passes, PassPeaks, pass_peaks
from pipo.plan.plan import _limits, composed_config, plan
from pipo.plan.seconds import Clock
from pipo.plan.sizes import Shape, Sizes, sizes
from pipo.rollout.local import LocalEngineConfig
from pipo.rollout.vllm import VllmConfig
from tests.toy import grpo

GIB = 2**30
# No overhead, and every rate as high as it can be.
PURE = assumptions(
    [
        *(f"{name}=0" for name in ("context_gib", "fragments", "cycle_s")),
        *(f"{name}=1" for name in ("train_share", "memory_share", "stream_share", "link_share")),
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
SHARDED = Sharding(reduce_dtype="float32", gradient_exchange=None, cpu_offload=False)
# A model of 1024 Mi parameters; of them 100 x 1000 in the head, which is the embedding.
SHAPE = Shape(
    layers=4, width=100, vocabulary=1000, heads=8, kv_heads=2, head_dim=16, tied=True, positions=512
)
PEAKS = PassPeaks(
    parameters=GIB,
    trained=GIB,
    exchanges_each_pass=True,
    scoring={"activations": GIB},
    update={"activations": 3 * GIB, "gradients": 4 * GIB},
)
HELD = Held(policy=PEAKS, retrospective=PEAKS, critic=None, sharding=SHARDED, exchanges=False)
SIZES = Sizes(
    processes=8,
    per_node=8,
    nodes=1,
    rows=16,
    group=8,
    step_rows=8,
    budget=260,
    longest_prompt=20,
    longest_response=30,
    prompt=20.0,
    response=30.0,
    rounds=1.0,
    numbers=4,
    products=2,
    sharded=True,
    lora=False,
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


LAYERS, HEAD = GIB - 100_000, 100_000
ATTENTION = 51_200  # operations of a token over half of 50: 2 x 4 layers x 8 heads x 16 x 50


def _clock(**changes) -> Clock:
    """Of a process with two steps of eight rows and their prompt, 260 tokens, which are a micro-batch."""
    return Clock(held=HELD, sizes=replace(SIZES, **changes), shape=SHAPE, gpu=GPU, assume=PURE)


def test_seconds_of_scoring():
    # A pass takes two operations per weight and token, and 24 bytes of memory per logit.
    passes = (520 * (2 * LAYERS + ATTENTION) + 2 * HEAD * 480) / 100e12 + 24 * 1000 * 480 / 1e12
    assert _clock(sharded=False).scoring() == pytest.approx(passes)
    # Weights in 2 bytes, 7/8 of them from others at 100 GB/s, take longer: those of no layer and of the first
    # of four before a pass, all layers beside it.
    sent = 2 * (HEAD + LAYERS / 4 + LAYERS) * 7 / 8
    assert _clock().scoring() == pytest.approx(2 * sent / 100e9)
    # One process alone sends nothing, whether it has shards or not.
    assert _clock(processes=1).scoring() == _clock(sharded=False).scoring()
    # An eighth of the weights: two exchanges of three copies, and one copy more, 8 bytes each.
    assert _clock().look_back() - _clock().scoring() == pytest.approx(7 * 8 * GIB / 8 / 1e12)


def test_seconds_of_an_update_and_what_is_lost():
    found = _clock(sharded=False).update(1.0, checkpointing=True)
    # Of a step: layers four times (forward, again, and two products of the backward pass), the head three.
    work = (260 * 4 * (2 * LAYERS + ATTENTION) + 3 * 2 * HEAD * 240) / 100e12
    # 240 rows of logits are a single block, which is kept: 24 bytes a logit forward, 12 backward.
    head = 36 * 1000 * 240 / 1e12
    adamw = 28 * GIB / 1e12
    assert found.seconds == pytest.approx(2 * (work + head + adamw))
    assert found.waste == pytest.approx(
        {
            "padding": 0,
            "imbalance": 0,
            "idle ranks": 0,
            "head": 2 * head / found.seconds,
            "exchange": 0,
        },
        abs=1e-12,
    )
    kept = _clock(sharded=False).update(1.0, checkpointing=False)
    assert found.work - kept.work == pytest.approx(2 * 260 * (2 * LAYERS + ATTENTION) / 100e12)


def test_gradients_of_every_micro_batch_are_exchanged_or_one_per_step():
    # At a budget of 140 a step is two passes of 4 rows with the prompt.
    often = _clock(budget=140)
    assert balance.step_work(often.sizes, PURE, waits=True).passes == 2
    once = replace(often, held=replace(HELD, policy=replace(PEAKS, exchanges_each_pass=False)))
    saved = often.update(1.0, checkpointing=True).exchange - once.update(1.0, checkpointing=True).exchange
    # Of two steps each one pass less that sums: 4 bytes per weight, and a layer of four that is last.
    assert saved == pytest.approx(2 * 4 * (HEAD + LAYERS / 4 + LAYERS) * 7 / 8 / 100e9)


def test_adapters_have_no_gradient_of_the_model():
    trained = 1_000_000
    adapters = replace(PEAKS, parameters=GIB + trained, trained=trained)
    held = replace(HELD, policy=adapters, retrospective=adapters)
    sizes = replace(SIZES, lora=True, numbers=2, reference=False, sharded=False)
    # The model in 2 bytes per weight, adapters, their moments and their copy in 4; an eighth of each.
    assert memory.standing(held, sizes) == {
        "weights": (2 * GIB + 4 * trained) // 8,
        "moments": trained,
        "copy for the measurement": trained // 2,
    }
    assert memory.checkpoint_bytes(held, sizes) == 16 * trained
    assert memory.sent_to_engine(held, sizes) == 4 * trained
    # The engine's 2 GiB of each of eight processes wait in main memory while it sleeps.
    host = memory.host_memory(held, sizes, PURE)["training"]
    assert host == 8 * (4 + 2) * GIB + 4 * (GIB + trained)
    clock = Clock(held=held, sizes=sizes, shape=SHAPE, gpu=GPU, assume=PURE)
    found = clock.update(1.0, checkpointing=False)
    # Frozen weights take two products, forward and what goes in; so does the head.
    layers = 2 * (2 * LAYERS + 3 * trained) + 3 * ATTENTION
    assert found.work == pytest.approx(2 * (260 * layers + 2 * 2 * HEAD * 240) / 100e12)
    assert found.step == pytest.approx(2 * 28 * trained / 1e12)


def test_lengths_that_differ_are_balanced_and_padded():
    uneven = replace(SIZES, longest_response=300, response=100.0, budget=1000)
    work = balance.step_work(uneven, PURE, waits=True)
    at_home = balance.scoring_work(uneven, PURE, waits=True)
    # Rows of an update go where there is least to do, those that are scored stay.
    assert 1 < work.slowest < 1.1 < at_home.slowest
    # Rows of a call are at most half as long again as the shortest, so that its work is at most 2.25 times.
    assert 1 < work.padded < 2.25
    # Eight rows on sixteen processes: half of them have none, and the others take twice the mean.
    idle = replace(SIZES, processes=16, step_rows=1, group=8, response=30.0)
    found = balance.step_work(idle, PURE, waits=True, share=0.5)
    assert (found.slowest, found.idle) == (2, 1)


def test_seconds_of_sampling():
    # 30 steps of full length: 1 ms each, and 2 GiB of weights and the cache of 16 rows at 1000 GB/s.
    clock = Clock(held=HELD, sizes=SIZES, shape=SHAPE, gpu=GPU, assume=PURE)
    cache = sum(16 * (20 + step) * 512 for step in range(30))
    prompts = 2 * 20 * (2 * (GIB - 100_000) + 51_200) / 100e12
    expected = 30 * (0.001 + 2 * GIB / 1e12) + cache / 1e12 + prompts
    assert clock.sampling(16, 128) == pytest.approx(expected)


def test_lengths_fall_off_and_are_cut():
    full = Lengths.of(30.0, 30)
    assert full.quantile(0.01) == 30
    assert [full.alive(0), full.alive(29), full.alive(30)] == [1.0, 1.0, 0.0]
    half = Lengths.of(15.0, 30)
    assert sum(half.alive(token) for token in range(30)) == pytest.approx(15)
    # A tenth are cut where more than that are still alive before the last token.
    assert half.quantile(1 - half.alive(9) + 1e-9) == 10
    assert half.quantile(0.99999) == 30
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


def test_what_a_cut_keeps_is_found_by_a_forward_pass_of_its_own():
    on = machine("1xH100-80")
    configs = [composed_config(("trainer.accelerator=auto", *more)) for more in ((), ("rollout.top_k=20",))]
    found = [sizes(config, build_objective(config), on, PURE).scorings for config in configs]
    assert found[1] == found[0] + 1


def test_an_engine_is_not_split_over_what_does_not_divide():
    eight, three = machine("8xH100-80"), VLLM.model_copy(update={"tensor_parallel_size": 3})
    config = composed_config(("trainer.accelerator=auto",))
    said = list(_limits(config, HELD, replace(SIZES, engine=three), SHAPE, eight, PURE, ()))
    assert any("tensor_parallel_size=3 does not divide the 8 processes" in each for each in said)
    said = list(_limits(config, HELD, SIZES, SHAPE, eight, PURE, ()))
    assert not any("tensor_parallel_size" in each for each in said)


def test_gpus_and_assumptions_are_named():
    assert machine("8xH100-80").count == 8
    assert machine("L40S-48").count == 1
    with pytest.raises(ConfigError, match="did you mean 8xH100-80"):
        machine("8xH100-8")
    with pytest.raises(ConfigError, match="did you mean 8xH100-80"):
        machine("8xh100-80")
    with pytest.raises(ConfigError, match=r"^gpus=-1xH100-80: one GPU at least is needed"):
        machine("-1xH100-80")
    with pytest.raises(ConfigError, match=r"^gpus=8xfoo: Write 8xA100-80; known are A100-80, [^\n]*$"):
        machine("8xfoo")
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


# Without bias: embedding and head 50 x 32; a layer has 4 + 2 + 2 + 4 heads of 8 x 32 in attention,
# 3 x 32 x 48, and norms of 2 x 32 and 2 x 8; a last norm of 32.
PARAMETERS = 50 * 32 + 2 * (12 * 8 * 32 + 3 * 32 * 48 + 2 * 32 + 2 * 8) + 32
TINY = Qwen3Config(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=True,
)
PASSES = Passes(
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
    on_gpu=True,
    memory=1000 * GIB,
)


@pytest.mark.slow
def test_gradients_wait_whole_or_in_shards():
    whole = pass_peaks(TINY, grpo(), PASSES, torch.float32, None)
    assert (whole.parameters, whole.trained) == (PARAMETERS, PARAMETERS)
    # Every tensor is rounded up to 512 bytes, of which there are 24.
    assert 4 * PARAMETERS <= whole.update["gradients"] <= 4 * PARAMETERS + 24 * 512
    assert "gradients" not in whole.scoring
    # On a GPU of 64 times the bytes of a gradient it would be small; on one of 8 times it is exchanged.
    small = replace(PASSES, memory=8 * 4 * PARAMETERS)
    shards = pass_peaks(TINY, grpo(), small, torch.float32, None)
    assert (whole.exchanges_each_pass, shards.exchanges_each_pass) == (False, True)
    assert 2 * PARAMETERS <= shards.update["gradients"] <= 2 * PARAMETERS + 24 * 512


def test_passes_with_adapters():
    lora = Lora(rank=4, alpha=8, targets="all-linear")
    found = pass_peaks(TINY, grpo(), PASSES, torch.bfloat16, lora)
    # Inputs and outputs of q, k, v, o, gate, up, down: 4 numbers for each, in both layers.
    assert found.trained == 4 * 2 * (64 + 48 + 48 + 64 + 80 + 80 + 80)
    assert found.parameters == PARAMETERS + found.trained
    # Two factors of seven linear layers in each of two layers, rounded up to 512 bytes.
    assert 4 * found.trained <= found.update["gradients"] <= 4 * found.trained + 28 * 512


# ------------------------------------------------------------------ the program

SMALL = Gpu(memory_gib=0.1, bfloat16_tflops=1, float32_tflops=1, memory_gb_s=100, link_gb_s=10)


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_what_would():
    bare = PURE.model_copy(update={"engine_gib": 0.0})
    settings = (
        *("model=tiny", "improvement=device", "strategy.tokens_per_micro_batch=1000"),
        "strategy.compute_dtype=bfloat16",
    )
    roomy = Machine(name="1xroomy", count=1, gpu=SMALL.model_copy(update={"memory_gib": 64.0}))
    fits = plan(settings, roomy, bare)
    assert (fits.limits, fits.changes) == ((), ())
    update = next(phase for phase in fits.phases if phase.name == "update")
    between = update.total - update.parts[memory.COPY] / 2
    small = Machine(name="1xsmall", count=1, gpu=SMALL.model_copy(update={"memory_gib": between / GIB}))
    tight = plan(settings, small, bare)
    assert "update" in [limit.partition(":")[0] for limit in tight.limits]
    assert tight.changes[0] == "improvement=cpu"
    assert plan((*settings, *tight.changes), small, bare).limits == ()


def test_the_program_refuses_in_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        main(["model=tiny"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: gpus=: name the GPUs of a node, for example gpus=8xH100-80\n"
