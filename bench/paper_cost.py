"""Estimate GPU hours of the paper's experiments from FLOPs and bandwidth; nothing is run.

    python bench/paper_cost.py [--tflops 148] [--bandwidth 4.0]

The defaults are an H20's dense bfloat16 TFLOP/s and TB/s. The hours are those of docs/reproduce.md, whose
section "Cost" explains the arithmetic.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from pipo.config.cli import register_resolvers
from pipo.home import CONF

GPUS = 8
H20 = {"tflops": 148.0, "bandwidth": 4.0}

PARAMETERS = {"qwen3_4b_base": 4.0e9, "qwen3_8b_base": 8.2e9, "qwen3_8b": 8.2e9}
# Tokens of the mean prompt, counted at four characters a token, and of the mean response, assumed.
TOKENS = {"math": (100, 1000), "code": (500, 1000), "tool_use": (800, 300), "science": (150, 800)}
CACHE_BYTES = 147_456  # keys and values of a token: 36 layers x 8 heads x 128 numbers x 2 x 2 bytes
USED = 0.4  # share of the peak in forward and backward passes
STEP_OVERHEAD = 0.003  # seconds of a decoding step beside reading weights and cache
OTHER = 15.0  # seconds an iteration for grading, weights to the engine, curve and checkpoints
DYNAMIC_ROUNDS = 3  # that DAPO draws to fill a batch

BASES = ("ppo", "grpo", "gspo", "dapo")
DOMAINS = ("biology", "chemistry", "material", "physics")

FORWARD, UPDATE = 2, 8  # FLOP per parameter and token; an update is forward, forward again and backward


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Estimated cost of a run."""

    iterations: int
    """Iterations of the run."""
    generate: float
    """Seconds of one iteration in which the engine samples."""
    train: float
    """Seconds of one iteration in forward and backward passes."""

    @property
    def gpu_hours(self) -> float:
        """Of the whole run on all GPUs."""
        return GPUS * self.iterations * (self.generate + self.train + OTHER) / 3600


def passes(algo: str, pipo: str) -> int:
    """FLOP per parameter and sampled token, all passes of an iteration together."""
    scored = 2 * FORWARD  # the behaviour log-probabilities; the reference model, with SDPO the teacher
    critic = FORWARD + UPDATE if algo == "ppo" else 0
    return scored + critic + UPDATE * (2 if pipo == "default" else 1)


def estimate(cfg: DictConfig, tflops: float, bandwidth: float) -> Cost:
    """The cost of an experiment.

    Args:
        cfg: its composed configuration.
        tflops: of one GPU in bfloat16, dense.
        bandwidth: of one GPU's memory, TB/s.
    """
    prompt, response = TOKENS["science" if cfg.task.name.startswith("science") else cfg.task.name]
    parameters, rows = PARAMETERS[cfg.model.name], cfg.recipe.responses
    # The longest response decides how many steps there are, and each step reads weights and cache.
    read = 2 * parameters + rows / GPUS * (prompt + response) * CACHE_BYTES
    step = read / (bandwidth * 1e12) + STEP_OVERHEAD
    rounds = DYNAMIC_ROUNDS if cfg.algo.name == "dapo" else 1
    work = passes(cfg.algo.name, cfg.pipo.name) * parameters * rows * (prompt + response)
    return Cost(
        iterations=cfg.iterations,
        generate=rounds * cfg.task.max_response_tokens * step,
        train=work / (GPUS * tflops * 1e12 * USED),
    )


def rows() -> list[str]:
    """Every row of the paper's tables, as it is typed."""
    tables = [("math_4b", BASES), ("math_8b", BASES), ("code", BASES), ("tool_use", BASES)]
    tables += [(f"science task.domain={domain}", ("grpo", "sdpo")) for domain in DOMAINS]
    return [
        f"experiment={table} algo={algo} pipo={pipo}"
        for table, algos in tables
        for algo in algos
        for pipo in ("none", "default")
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tflops", type=float, default=H20["tflops"], help="of one GPU, bfloat16, dense")
    parser.add_argument("--bandwidth", type=float, default=H20["bandwidth"], help="of its memory, TB/s")
    options = parser.parse_args()
    register_resolvers()
    print("| row | iterations | s sampling | s training | GPU hours |\n|---|---|---|---|---|")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for row in rows():
            cfg = compose(config_name="train", overrides=row.split())
            cost = estimate(cfg, options.tflops, options.bandwidth)
            print(
                f"| `{row}` | {cost.iterations} | {cost.generate:.0f} | {cost.train:.0f} "
                f"| {cost.gpu_hours:.0f} |"
            )


if __name__ == "__main__":
    main()
