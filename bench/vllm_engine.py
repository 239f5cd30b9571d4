"""The vLLM engine against the local one: speed, agreement, and the cost of the weight sync.

python bench/vllm_engine.py [--model FOLDER ...] [--dtypes float32 bfloat16] [--prompts 64] [--tokens 64]

Both engines answer the same prompts in one process, one after the other, with as many responses as prompts
and no stop token, so that both sample the same number of tokens. Log-probabilities of what vLLM sampled are
compared with a full forward pass of the trainer's float32 weights.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from rich.console import Console
from rich.table import Table

from pipo.distributed.seeds import numbered_seed
from pipo.lm.policy import Policy, load_policy
from pipo.lm.spec import embedded_model
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.engine import RolloutEngine
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from pipo.rollout.options import SamplingParams
from pipo.rollout.vllm import VllmConfig, VllmEngine
from pipo.runs.quiet import quiet

REPEATS = 3
PROMPT_TOKENS = 24


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=[embedded_model("tiny")], help="Hugging Face folders")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    return parser.parse_args()


def prompts_for(policy: Policy, count: int) -> list[TokenIds]:
    """Random token ids: speed and agreement do not depend on their meaning."""
    size = policy.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(numbered_seed(0, count))
    drawn = torch.randint(3, size, (count, PROMPT_TOKENS), generator=generator)
    return [tuple(row) for row in drawn.tolist()]


def best(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds of the fastest of some repeats."""
    taken = []
    for _ in range(REPEATS):
        wall, own = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - wall, time.process_time() - own))
    return min(taken)


def speed(engine: RolloutEngine, prompts: list[TokenIds], sampling: SamplingParams) -> tuple[float, float]:
    """Sampled tokens per second, by the clock on the wall and by the processor's."""
    seconds = best(lambda: engine.generate(prompts, 1, sampling, seed=1))
    tokens = len(prompts) * sampling.max_response_tokens
    return tokens / seconds[0], tokens / seconds[1]


@torch.no_grad()
def gap(policy: Policy, prompts: list[TokenIds], got: Completions) -> tuple[float, float]:
    """Mean and largest difference from a full forward pass."""
    differences = []
    for row, prompt in enumerate(prompts):
        response = got.response_ids[row].tolist()
        ids, mask = pad_rows([[*prompt, *response]])
        mask[:, : len(prompt)] = False
        differences.append((policy(ids, mask, 1.0) - got.logprobs[row]).abs())
    every = torch.cat(differences)
    return every.mean().item(), every.max().item()


def measure(
    table: Table, path: str, dtype: Literal["float32", "bfloat16"], arguments: argparse.Namespace
) -> None:
    """One row: both engines on one model in one precision."""
    trainer, sampler = load_policy(path, "float32"), load_policy(path, dtype)
    sampling = SamplingParams(
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        max_response_tokens=arguments.tokens,
        stop_token_ids=frozenset(),
    )
    prompts = prompts_for(trainer, arguments.prompts)
    local = LocalEngine(sampler, LocalEngineConfig(max_rows=512, compact_below=0.75))
    config = VllmConfig(
        dtype=dtype,
        max_num_seqs=256,
        max_model_len=None,
        gpu_memory_utilization=0.4,
        cpu_kv_cache_gib=1.0,
        enforce_eager=True,
        tensor_parallel_size=1,
        sleep=False,
    )
    engine = VllmEngine(trainer, config)
    started = time.perf_counter()
    engine.wake()
    started = time.perf_counter() - started
    engine.generate(prompts[:2], 1, sampling, seed=0)  # what is done once
    rates = [*speed(local, prompts, sampling), *speed(engine, prompts, sampling)]
    mean, largest = gap(trainer, prompts, engine.generate(prompts, 1, sampling, seed=2))
    sync = best(lambda: engine.sync_weights(trainer.named_parameters()))[0]
    engine.close()
    millions = sum(p.numel() for p in trainer.parameters()) / 1e6
    cells = [f"{rate:,.0f}" for rate in rates]
    cells += [f"{mean:.1e}", f"{largest:.1e}", f"{1e3 * sync:.0f}", f"{1e3 * sync / millions:.1f}"]
    table.add_row(Path(path).name, dtype, *cells, f"{started:.1f}")


def main() -> None:
    """A table with a row per model and precision."""
    quiet()
    arguments = options()
    title = f"{arguments.prompts} prompts of {PROMPT_TOKENS} tokens, {arguments.tokens} sampled tokens each"
    table = Table(title=f"{title}, {torch.get_num_threads()} threads")
    table.add_column("model")
    table.add_column("dtype")
    for name in (
        "local tok/s",
        "per cpu-s",
        "vLLM tok/s",
        "per cpu-s",
        "mean |diff|",
        "max |diff|",
        "sync ms",
        "ms per M",
        "start s",
    ):
        table.add_column(name, justify="right")
    for path in arguments.model:
        for dtype in arguments.dtypes:
            measure(table, path, dtype, arguments)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
