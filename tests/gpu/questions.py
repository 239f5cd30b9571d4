"""The questions of the first look at a GPU, cheapest and most telling first."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config

from pipo.doctor.__main__ import examine
from pipo.lm import logprobs
from pipo.lm.attention import attention
from tests import toy
from tests.conftest import ROOT
from tests.gpu.look import QUICK, Answer, Place, Question, Skipped, called, metrics, train
from tests.gpu.wide_model import SOME_REWARD, half_a_billion, write_model

# No more than these may wait for the GPU: see "Waiting" in docs/performance.md, which counts them elsewhere.
_WITHIN_MICRO_BATCHES = ("pipo/functional/", "pipo/modules/objectives/", "pipo/lm/")
# Where the numbers of all micro-batches are read together, once per optimiser step.
_STEP = "pipo/modules/objectives/base.py"
# Of the head: so many times the time of its bare matrix products, and so much memory.
_LIMIT, _LIMIT_GIB = 2.5, 8
# By so much may the memory of tensors differ from the plan's.
_PLAN = 0.15


def environment(place: Place) -> Answer:
    """The doctor's report."""
    findings = list(examine(place.folder))
    advice = [f"{each.name}: {each.advice}" for each in findings if each.advice is not None]
    values = {"findings": [asdict(each) for each in findings]}
    return Answer(good=not advice, found="; ".join(advice) or "nothing is wrong", values=values)


def default_run(place: Place) -> Answer:
    """``make train``'s own path, for fewer iterations."""
    ran = train(place, "default", "iterations=20", "evaluation.samples=2", "evaluation.ks=[1]")
    before, after = (ran.summary[when]["pass@1"] for when in ("before", "after"))
    values = {"before": before, "after": after, "phases": ran.phases(), "peaks": ran.peaks}
    return Answer(good=after - before > 0.1, found=f"pass@1 from {before:.3f} to {after:.3f}", values=values)


def on_policy_clipping(place: Place) -> Answer:
    """GSPO's narrow trust region in bfloat16, one step per iteration: the ratio is 1 by definition."""
    one_step = ["algo=gspo", "pipo=none", "recipe.responses=128", "recipe.mini_batch=128"]
    ran = train(place, "gspo", "iterations=4", *one_step, "precision@strategy=bfloat16", *QUICK)
    clipped = [row["policy/clip_fraction"] for row in ran.rows]
    gaps = [row["rollout/logprob_diff"] for row in ran.rows]
    largest = [row["rollout/logprob_diff_max"] for row in ran.rows]
    values = {"clip_fraction": clipped, "logprob_diff": gaps, "logprob_diff_max": largest}
    good = max(clipped) == 0 and 0 < max(gaps) < 0.05
    return Answer(good=good, found=f"clipped {max(clipped):g}, gap {max(gaps):.1e} nats", values=values)


def attention_kernels(place: Place) -> Answer:
    """The kernels that torch chooses for the shapes that training and sampling have, by torch's profiler."""
    dtype = torch.bfloat16
    n, heads, kv_heads, width = (4, 32, 8, 128) if not place.rehearsal else (2, 4, 2, 16)
    length = 1024 if not place.rehearsal else 32

    def made(many: int, queries: int) -> Tensor:
        return torch.randn(n, many, queries, width, device=place.device, dtype=dtype, requires_grad=True)

    mask = torch.ones(n, 1, length, length, dtype=torch.bool, device=place.device).tril()
    cases = {
        "causal": (made(heads, length), made(kv_heads, length), made(kv_heads, length), None),
        "masked": (made(heads, length), made(kv_heads, length), made(kv_heads, length), mask),
        "one query": (made(heads, 1), made(kv_heads, length), made(kv_heads, length), mask[:, :, -1:]),
    }
    chosen = {}
    for name, (query, key, value, hidden) in cases.items():
        with torch.profiler.profile() as profile:
            attention(torch.nn.Identity(), query, key, value, hidden)
        names = {event.key for event in profile.key_averages() if "_scaled_dot_product" in event.key}
        chosen[name] = sorted(name.removeprefix("aten::_scaled_dot_product_") for name in names)
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    good = any("flash" in each for each in chosen["causal"]) and not cudnn
    chosen_ones = {each for kernels in chosen.values() for each in kernels}
    good = good and not any(kind in each for kind in ("cudnn", "math") for each in chosen_ones)
    found = "; ".join(f"{name}: {', '.join(kernels) or 'plain products'}" for name, kernels in chosen.items())
    return Answer(good=good, found=found, values={"kernels": chosen, "cudnn_enabled": cudnn})


def head(place: Place) -> Answer:
    """Log-probabilities at Qwen3-4B's vocabulary, forward and backward, beside their four bare products."""
    rows, width, vocabulary = (18_432, 2560, 151_936) if not place.rehearsal else (64, 32, 1000)
    options = {"device": place.device, "dtype": torch.bfloat16}
    hidden = torch.randn(rows, width, **options).requires_grad_()  # type: ignore[call-overload]
    weight = (0.02 * torch.randn(vocabulary, width, **options)).requires_grad_()  # type: ignore[call-overload]
    tokens = torch.randint(vocabulary, (rows,), device=place.device)
    blocks = logprobs.row_blocks(rows, vocabulary, hidden.device)

    def products() -> None:
        with torch.no_grad():
            for block in blocks:
                logits = hidden[block] @ weight.t()
                for _ in range(2):
                    torch.mm(logits, weight)
                torch.mm(logits.t(), hidden[block])

    def whole() -> None:
        logprobs.token_logprobs(hidden, weight, tokens, 1.0).sum().backward()

    bare, full = timed(place, products), timed(place, whole)
    values: dict[str, object] = {"seconds": full, "bare_products": bare, "blocks": len(blocks)}
    good = True
    if not place.rehearsal:
        torch.cuda.reset_peak_memory_stats()
        whole()
        peak = torch.cuda.max_memory_allocated() / 2**30
        values["peak_gib"] = peak
        good = full < _LIMIT * bare and peak < _LIMIT_GIB
    return Answer(good=good, found=f"{full:.3f} s, {full / bare:.2f} times the products", values=values)


def timed(place: Place, act) -> float:
    """Median seconds of five, after one that warms up."""
    taken = []
    for _ in range(6):
        if not place.rehearsal:
            torch.cuda.synchronize()
        start = perf_counter()
        act()
        if not place.rehearsal:
            torch.cuda.synchronize()
        taken.append(perf_counter() - start)
    return median(taken[1:])


def waiting(place: Place) -> Answer:
    """Lines of the package that make the program wait for the GPU, as torch's own warning counts them."""
    if place.rehearsal:
        raise Skipped("nobody waits for a CPU; tests/simulated_cuda counts instead")
    module = toy.module(mini_batch=8, tokens=40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            toy.fit(module, [toy.pipo()], 4, accelerator="cuda")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    lines: Counter[str] = Counter()
    for each in caught:
        if "synchron" in str(each.message) and Path(each.filename).is_relative_to(ROOT):
            lines[f"{Path(each.filename).relative_to(ROOT)}:{each.lineno}"] += 1
    within = {
        line: count
        for line, count in lines.items()
        if line.startswith(_WITHIN_MICRO_BATCHES) and not line.startswith(_STEP)
    }
    found = f"{sum(within.values())} within micro-batches, {sum(lines.values())} in all"
    return Answer(good=not within, found=found, values={"lines": dict(lines.most_common())})


def shards(place: Place) -> Answer:
    """FSDP2 on one device beside whole weights: the same draws, and gradients to float32's rounding."""
    small = ["iterations=4", "recipe.responses=64", "recipe.mini_batch=32", *QUICK]
    whole = train(place, "whole", "strategy=single", *small)
    sharded = train(place, "shards", "strategy=fsdp", *small)
    pairs = list(zip(whole.rows, sharded.rows, strict=True))
    rewards = [abs(a["train/reward"] - b["train/reward"]) for a, b in pairs]
    norms = [abs(a["policy/grad_norm"] / b["policy/grad_norm"] - 1) for a, b in pairs]
    good = max(rewards) == 0 and max(norms) < 1e-3
    values = {"rewards": rewards, "norms": norms, "phases": [whole.phases(), sharded.phases()]}
    found = f"rewards differ by {max(rewards):g}, gradient norms by {max(norms):.1e}"
    return Answer(good=good, found=found, values=values)


def again(place: Place) -> Answer:
    """A run, the same run again, and one that stops half-way and is resumed."""
    small = ["iterations=4", "recipe.responses=64", "recipe.mini_batch=32", "pipo.window=2", *QUICK]
    first, second = (train(place, name, *small) for name in ("once", "again"))
    half = train(place, "half", *small, "iterations=2").folder
    called(place, [sys.executable, str(ROOT / "train.py"), f"resume={half}", "iterations=4"])
    resumed = metrics(half)
    differences = {
        f"{name}, {other}": max(abs(a[name] - b[name]) for a, b in zip(first.rows, rows, strict=True))
        for name in ("train/reward", "policy/grad_norm")
        for other, rows in (("again", second.rows), ("resumed", resumed))
    }
    norm = max(row["policy/grad_norm"] for row in first.rows)
    found = ", ".join(f"{name}: {each:.1e}" for name, each in differences.items())
    return Answer(good=max(differences.values()) < 1e-3 * norm, found=found, values=differences)


def wide_run(place: Place) -> Answer:
    """Three iterations of Qwen3-0.6B's shape in bfloat16: seconds by phase and memory, beside the plan's."""
    config = half_a_billion() if not place.rehearsal else _narrow()
    tokens = 128 if not place.rehearsal else 8
    model = write_model(config, place.folder / "wide")
    settings = [
        *(f"model={model}", "strategy=fsdp_bf16", "model.gradient_checkpointing=true", "iterations=3"),
        *("recipe.responses=128", "recipe.mini_batch=64", "recipe.kl_coef=0.001", "curve.every=1000"),
        *(f"task.max_response_tokens={tokens}", "pipo.window=2", *QUICK),
    ]
    ran = train(place, "wide-run", *settings, SOME_REWARD)
    norms = [row["policy/grad_norm"] for row in ran.rows]
    phases, planned = ran.phases(), _planned(place, *settings)
    values = {"phases": phases, "peaks": ran.peaks, "norms": norms, "planned": planned, "rows": ran.rows}
    good, beside = all(0 < norm < float("inf") for norm in norms), ""
    if not place.rehearsal:
        took, said = ran.peaks["gpu_allocated_gib"], planned["gib"]
        good, beside = good and abs(took / said - 1) < _PLAN, f" ({said:.1f} planned)"
    found = f"{phases['time/iteration']:.1f} s per iteration, peaks {_shown(ran.peaks)}{beside}"
    return Answer(good=good, found=found, values=values)


def _planned(place: Place, *settings: str) -> dict[str, Any]:
    """What ``pipo plan`` says of these settings: the fullest phase without what is assumed, and seconds."""
    sizes = ["gpus=1xH100-80", "assume.response_share=1", "--json"]
    made = json.loads(called(place, [sys.executable, "-m", "pipo", "plan", *settings, *sizes]))
    phases = {
        name: sum(part for kind, part in phase["parts"].items() if kind not in ("fragments", "context"))
        for name, phase in made["phases"].items()
    }
    return {"gib": max(phases.values()) / 2**30, "phases": made["phases"], "seconds": made["seconds"]}


def _narrow() -> Qwen3Config:
    return Qwen3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )


def _shown(peaks: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in peaks.items())


def vllm(place: Place) -> Answer:
    """``tests/gpu/test_vllm.py``: log-probabilities, three updates, sleep and waking."""
    if importlib.util.find_spec("vllm") is None:
        raise Skipped('vLLM is not installed: pip install "pipo[vllm]"')
    if place.rehearsal:
        raise Skipped("make test-vllm does it on a CPU")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu/test_vllm.py"]
    said = called(place, command).strip().splitlines()
    return Answer(good=True, found=said[-1], values={"said": said})


QUESTIONS = (
    Question(name="environment", expected="the doctor has no advice", seconds=20, ask=environment),
    Question(
        name="attention",
        expected="flash for causal rows; nowhere cuDNN's kernel, which plans for every shape, nor products",
        seconds=20,
        ask=attention_kernels,
    ),
    Question(
        name="head",
        expected=f"at most {_LIMIT} times its four matrix products; peak below {_LIMIT_GIB} GiB",
        seconds=20,
        ask=head,
    ),
    Question(
        name="waiting",
        expected="no line within micro-batches waits for the GPU",
        seconds=20,
        ask=waiting,
    ),
    Question(
        name="default run",
        expected="python train.py runs, and 20 iterations bring more than 10 points of pass@1",
        seconds=60,
        ask=default_run,
    ),
    Question(
        name="on-policy clipping",
        expected="in bfloat16 nothing is clipped on policy; sampler and trainer differ, by less than .05",
        seconds=60,
        ask=on_policy_clipping,
    ),
    Question(
        name="shards",
        expected="fsdp on one device: rewards of whole weights, gradient norms within 1e-3",
        seconds=70,
        ask=shards,
    ),
    Question(
        name="again",
        expected="the same run again, and resumed half-way: rewards and gradient norms within 1e-3",
        seconds=110,
        ask=again,
    ),
    Question(
        name="wide model",
        expected="half a billion parameters in bfloat16: finite gradients; memory within 15 % of the plan",
        seconds=120,
        ask=wide_run,
    ),
    Question(
        name="vllm",
        expected="its tests pass: log-probabilities, weight updates, sleep and waking",
        seconds=100,
        ask=vllm,
    ),
)
