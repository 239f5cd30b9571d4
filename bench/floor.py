"""Lower bound of cost: GRPO in plain PyTorch on a workload, and this package beside it.

    python bench/floor.py [WORKLOAD] [--vocabulary 32768] [--vs pipo] [--rounds 5] [--out floor.json]

The loop is as lean as plain PyTorch allows: fused projections, prompts read once per group, finished rows
dropped, one uniform number per sampled token, rows without advantage left out (they stay in the denominator),
buckets of similar length with the least padding, the head's gradient in one pass. With ``--vs pipo`` the
product trains on the same workload in turn: same batch, group, response limit, learning rate, one thread,
each run a process of its own. CPU seconds are medians over all iterations but the first of each run; pass@1
is scored after each run on the same held-out problems. ``WORKLOAD`` is ``tiny`` (default) or a folder; see
bench/workload.py.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench import ruler
from bench.lean import LeanQwen3
from bench.workload import Problem, prepare, problems
from pipo.lm.policy import load_tokenizer, stop_token_ids

# A forward and backward pass costs about as much as so many tokens before it has any; at most so many in one.
PASS_TOKENS, MOST_TOKENS = 64, 4096
WARM_UP = 1  # iterations of each run that are not counted
PHASES = ("generate", "gradient", "step", "iteration")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the run on both sides."""

    iterations: int
    """Iterations of each run."""
    prompts: int
    """Prompts per iteration."""
    group_size: int
    """Responses per prompt."""
    limit: int
    """Longest response, in tokens."""
    learning_rate: float
    """Learning rate of AdamW; betas, decay and clipping are those of ``algo=grpo``."""
    evaluated: int
    """Held-out problems scored after the run, with two responses each."""


def buckets(lengths: Sequence[int]) -> list[slice]:
    """Cut ascending lengths into the runs that cost least: padded tokens, and ``PASS_TOKENS`` for each."""
    ends = [i for i in range(1, len(lengths) + 1) if i == len(lengths) or lengths[i] != lengths[i - 1]]
    cost, begin = {0: 0}, {}
    for end in ends:
        begin[end] = min(cost, key=lambda start: cost[start] + (end - start) * lengths[end - 1])
        cost[end] = cost[begin[end]] + (end - begin[end]) * lengths[end - 1] + PASS_TOKENS
    found: list[slice] = []
    end = len(lengths)
    while end:
        size = max(1, MOST_TOKENS // lengths[end - 1])
        found += [slice(i, min(i + size, end)) for i in range(begin[end], end, size)]
        end = begin[end]
    return found


class Floor:
    """The loop."""

    def __init__(self, folder: Path, sizes: Sizes, seed: int) -> None:
        self.sizes = sizes
        self.model = LeanQwen3(str(folder))
        self.tokenizer = load_tokenizer(str(folder))
        self.stops = stop_token_ids(str(folder), self.tokenizer)
        self.train, self.test = problems(folder, "train"), problems(folder, "test")
        self.generator = torch.Generator().manual_seed(seed)
        self.order = random.Random(seed).sample(range(len(self.train)), len(self.train))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=sizes.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            foreach=True,
        )

    def _sample(self, asked: Sequence[Problem], group_size: int) -> tuple[list[list[int]], list[list[int]]]:
        prompts = [self.tokenizer(problem.prompt)["input_ids"] for problem in asked]
        drawn = self.model.sample(prompts, group_size, self.sizes.limit, self.stops, self.generator)
        return prompts, drawn

    def _rewards(self, asked: Sequence[Problem], drawn: Sequence[list[int]]) -> torch.Tensor:
        group_size = len(drawn) // len(asked)
        texts = self.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        return torch.tensor([float(asked[i // group_size].solved_by(text)) for i, text in enumerate(texts)])

    def iterate(self, iteration: int) -> dict[str, float]:
        """One iteration; CPU seconds by phase, tokens and the mean reward."""
        sizes, start = self.sizes, time.process_time()
        first = iteration * sizes.prompts
        asked = [self.train[self.order[i % len(self.order)]] for i in range(first, first + sizes.prompts)]
        prompts, drawn = self._sample(asked, sizes.group_size)
        sampled = time.process_time()
        rewards = self._rewards(asked, drawn).view(-1, sizes.group_size)
        spread = rewards.std(dim=1, keepdim=True)
        advantages = ((rewards - rewards.mean(dim=1, keepdim=True)) / (spread + 1e-6)).view(-1).tolist()
        tokens = sum(len(response) for response in drawn)
        rows = [
            (prompts[i // sizes.group_size], drawn[i], advantage / tokens)
            for i, advantage in enumerate(advantages)
            if advantage != 0
        ]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        for bucket in buckets([len(row[0]) + len(row[1]) for row in rows]):
            self.model.accumulate(rows[bucket])
        differentiated = time.process_time()
        if rows:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
            self.optimizer.step()
            self.optimizer.zero_grad()
        end = time.process_time()
        return {
            "generate": sampled - start,
            "gradient": differentiated - sampled,
            "step": end - differentiated,
            "iteration": end - start,
            "tokens": tokens,
            "reward": rewards.mean().item(),
        }

    def pass_at_1(self) -> float:
        """Share of sampled responses to held-out problems that are right."""
        asked = self.test[: self.sizes.evaluated]
        return self._rewards(asked, self._sample(asked, 2)[1]).mean().item()


def run_floor(folder: Path, sizes: Sizes, seed: int) -> dict[str, Any]:
    """One run of the floor in this process."""
    floor = Floor(folder, sizes, seed)
    rows = [floor.iterate(iteration) for iteration in range(sizes.iterations)]
    return {"rows": rows, "peak_gib": ruler.peak_memory(), "pass@1": floor.pass_at_1()}


def run_pipo(folder: Path, sizes: Sizes, seed: int, scratch: Path) -> dict[str, Any]:
    """One run of the product, as a user would start it."""
    out, stamps = scratch / "run", scratch / "stamps.json"
    responses = sizes.prompts * sizes.group_size
    settings = {
        "task": "expressions",
        "task.source.folder": folder,
        "task.max_response_tokens": sizes.limit,
        "model": folder,
        "recipe": "tiny",
        "recipe.responses": responses,
        "recipe.mini_batch": responses,
        "recipe.learning_rate": sizes.learning_rate,
        "algo.group_size": sizes.group_size,
        "pipo": "none",
        "iterations": sizes.iterations,
        "seed": seed,
        "evaluation.problems": sizes.evaluated,
        "evaluation.samples": 2,
        "evaluation.ks": "[1]",
        "curve.every": 1_000_000,
        "output_dir": out,
        "+callbacks.stamps._target_": "bench.stamps.IterationStamps",
        "+callbacks.stamps.path": stamps,
    }
    command = [sys.executable, "train.py", "--config-dir", "bench/conf"]
    ruler.run_program([*command, *(f"{key}={value}" for key, value in settings.items())])
    stamped = json.loads(stamps.read_text())
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [
        {
            "iteration": stamp["cpu"],
            "tokens": row["train/response_length"] * responses,
            "reward": row["train/reward"],
        }
        for stamp, row in zip(stamped["rows"], metrics, strict=True)
    ]
    summary = json.loads((out / "summary.json").read_text())
    return {"rows": rows, "peak_gib": stamped["peak_gib"], "pass@1": summary["after"]["pass@1"]}


def compare(sides: Sequence[str], folder: Path, sizes: Sizes, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Runs of every side; they take turns, and the one that begins changes."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            with tempfile.TemporaryDirectory() as scratch:
                if side == "pipo":
                    runs[side].append(run_pipo(folder, sizes, number, Path(scratch)))
                else:
                    result = Path(scratch) / "floor.json"
                    options = [f"--{key}={value}" for key, value in vars(sizes).items()]
                    command = [sys.executable, __file__, str(folder), f"--one-run={number}", *options]
                    ruler.run_program([*command, f"--out={result}"])
                    runs[side].append(json.loads(result.read_text()))
    return runs


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one side: each run gives the median over its iterations, the spread is over runs."""
    counted = [run["rows"][WARM_UP:] for run in runs]
    names = [name for name in (*PHASES, "tokens") if name in counted[0][0]]
    found: dict[str, Any] = {
        name: ruler.Spread.of([statistics.median(row[name] for row in rows) for rows in counted])
        for name in names
    }
    return found | {name: ruler.Spread.of([run[name] for run in runs]) for name in ("peak_gib", "pass@1")}


def _options() -> argparse.Namespace:
    parser = ruler.parser(__doc__)
    parser.add_argument("workload", nargs="?", default="tiny", help="'tiny' or a workload folder")
    parser.add_argument("--vocabulary", type=int, help="pad embedding and head to so many rows")
    parser.add_argument("--vs", choices=["pipo"], help="measure the product in turn")
    parser.add_argument("--iterations", type=int, default=10, help="of each run")
    parser.add_argument("--prompts", type=int, default=16, help="per iteration")
    parser.add_argument("--group_size", type=int, default=8, help="responses per prompt")
    parser.add_argument("--limit", type=int, default=40, help="tokens per response, at most")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--evaluated", type=int, default=256, help="held-out problems scored after a run")
    parser.add_argument("--one-run", type=int, metavar="SEED", help="one run of the floor in this process")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(1)
    sizes = Sizes(**{name: getattr(options, name) for name in Sizes.__dataclass_fields__})
    if options.one_run is not None:
        ruler.write(options.out, run_floor(Path(options.workload), sizes, options.one_run))
        return
    sides = ["floor"] + ([options.vs] if options.vs else [])
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare(options.workload, Path(scratch), options.vocabulary)
        runs = compare(sides, folder, sizes, options.rounds)
    figures: dict[str, Any] = {side: summarise(of_side) for side, of_side in runs.items()}
    table = Table(title=f"{options.rounds} runs of {sizes.iterations} iterations, median (range over runs)")
    for heading in ("CPU s per iteration", *sides):
        table.add_column(heading, justify="left" if heading not in sides else "right")
    for name in (*PHASES, "tokens", "peak_gib", "pass@1"):
        digits = 0 if name == "tokens" else 3
        table.add_row(name, *(figures[s][name].show(digits) if name in figures[s] else "" for s in sides))
    console = Console()
    console.print(table)
    if options.vs:
        both = [
            [statistics.median(row["iteration"] for row in run["rows"]) for run in runs[s]] for s in sides
        ]
        figures["of_floor"] = ruler.Spread.of([own / low for low, own in zip(*both, strict=True)])
        console.print(f"{options.vs} / floor, by round: {figures['of_floor'].show(2)}")
    ruler.write(options.out, {"sizes": sizes, **figures, "runs": runs})


if __name__ == "__main__":
    main()
