"""One model on one benchmark, from the configuration to ``results.json``."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

from pipo import build, run_folder
from pipo.evaluation.report import benchmark_table, write_results, write_samples
from pipo.evaluation.results import Summary
from pipo.evaluation.runner import evaluate
from pipo.instantiate import construct, instantiate
from pipo.quiet import quiet
from pipo.tasks.prompts import response_decoder


def score(cfg: DictConfig) -> Summary:
    """Evaluate, write results and samples, print a table.

    Raises:
        ConfigError: when anything the user gave cannot be used.
    """
    quiet()
    folder = Path(str(cfg.output_dir))
    with run_folder.claimed(folder, cfg):
        return _score(cfg, folder)


def _score(cfg: DictConfig, folder: Path) -> Summary:
    """Evaluate into a folder that is ours."""
    device = construct(_device, cfg, {"name": "device"})
    plan = build.build_plan(cfg)
    (part,) = cfg.benchmark.parts
    bench = build.build_workbench(cfg, f"benchmark.parts.{part}")
    try:
        problems = bench.problems("test", cfg.evaluation.problems)
        policy = bench.model.load()
        engine = instantiate(cfg, "rollout.engine")(policy=policy)
        if engine.shares_weights:
            policy.to(device)  # another engine has a copy where it samples; this one only feeds it
        result = evaluate(
            engine,
            bench.task,
            problems.examples,
            problems.prompt_ids,
            response_decoder(bench.tokenizer),
            bench.sampling,
            plan,
        )
        engine.close()
    finally:
        bench.task.close()
    summary, name = result.to_summary(), cfg.benchmark.name
    run_folder.record_run(folder)
    metadata = {"model": bench.model.path, "task_version": bench.task.version}
    if bench.model.checkpoint is not None:
        metadata["checkpoint"] = str(bench.model.checkpoint)
    write_samples(folder, result.problems)
    write_results(folder, {name: summary}, metadata)
    console = Console()
    console.print(benchmark_table(name, summary))
    console.print(f"results.json and samples.jsonl are in {folder}", highlight=False)
    return summary


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device(build.default_device())
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    return torch.device(name)
