"""The programs on a simulated GPU: no tensor on the wrong device, and few moments that wait for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests import toy
from tests.conftest import ROOT
from tests.integration.two_ranks import OBJECTIVES
from tests.simulated_cuda import guard
from tests.simulated_cuda.ledger import WAITS
from tests.simulated_cuda.program import TOY_ITERATIONS

pytestmark = [
    pytest.mark.skipif(guard.compiler() is None, reason="needs a C++ compiler (g++ or c++) on the path"),
    pytest.mark.skipif(sys.platform != "linux", reason="loads a library the way Linux does"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this build of torch has CUDA's own guard"),
]

# Waits for the device, see docs/performance.md. A micro-batch has none: the numbers of all are read together.
PER_OPTIMIZER_STEP = 1
PER_SCORED_MODEL = 1
PER_SAMPLED_TOKEN = 1
PER_WAVE = 7

ALGORITHMS = sorted(path.stem for path in (ROOT / "conf/algo").glob("*.yaml"))
QUICK = ("rules:", "toy:ppo", "run:algo=grpo")
SLOW = (
    *(f"toy:{name}" for name in OBJECTIVES if name != "ppo"),
    "toy:grpo:bfloat16:blocks",
    "toy:grpo:look_back=device",
    "toy:grpo:look_back=cpu",
    "toy:ppo:step_control",
)
RUNS = (
    *(f"run:algo={algo},pipo={pipo}" for algo in ALGORITHMS for pipo in ("default", "none")),
    "run:pipo=step_control",
    "run:improvement=device",
    "run:strategy.compute_dtype=bfloat16,model.gradient_checkpointing=true,recipe.kl_coef=0.001",
)


def results(cases: tuple[str, ...], request, folder: Path) -> dict[str, dict[str, Any]]:
    """What each case did, by its name; a program of its own runs them all."""
    library = guard.compiled(request.config.cache.mkdir("simulated_cuda"))
    command = [sys.executable, str(ROOT / "tests/simulated_cuda/program.py"), str(library), str(folder)]
    done = subprocess.run([*command, *cases], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {case: json.loads((folder / f"{i}.json").read_text()) for i, case in enumerate(cases)}
    for case, result in found.items():
        assert result["error"] is None, f"{case}\n{result['error']}"
    return found


def waits(result: dict[str, Any], phase: str) -> Counter[str]:
    """How often a phase waited, by line of the package."""
    counted: Counter[str] = Counter()
    for where, kind, line, count in result["counts"]:
        if where == phase and kind in WAITS:
            counted[f"{kind} {line}"] += count
    return counted


def check_waits(case: str, result: dict[str, Any], models: int, waves: int, tokens: int) -> None:
    """Hold a case to the bounds: so many models scored, waves of sampling, and tokens of the longest row."""
    for phase, bound in {
        "update": PER_OPTIMIZER_STEP * result["steps"],
        "scoring": PER_SCORED_MODEL * models,
        "sampling": PER_WAVE * waves + PER_SAMPLED_TOKEN * tokens * waves,
    }.items():
        found = waits(result, phase)
        assert found.total() <= bound, f"{case}, {phase}: {found.total()} waits instead of {bound}: {found}"


def check_toys(found: dict[str, dict[str, Any]]) -> None:
    """Every toy was trained, with PIPO, and within the bounds."""
    for case, result in found.items():
        if not case.startswith("toy:"):
            continue
        assert any(row["pipo/applied"] for row in result["metrics"]), case
        assert result["micro_batches"] > result["steps"] or "ppo" in case
        rounds = 3 if "dapo" in case else 1
        # The sampler, reference, critic or teacher, and both sides of a measurement.
        check_waits(case, result, 4 * TOY_ITERATIONS, rounds * TOY_ITERATIONS, 5)


def test_training_scoring_and_evaluation_on_a_simulated_gpu(request, tmp_path):
    """All of ``make train`` and ``eval.py``, resuming included; and PPO, which has every kind of model."""
    found = results(QUICK, request, tmp_path)
    check_rules(found["rules:"]["outcomes"])
    check_toys(found)
    assert found["run:algo=grpo"]["scored"] == 4  # two problems, two responses each
    simulated = torch.load(tmp_path / f"case{QUICK.index('toy:ppo')}.pt")
    # The CPU's kernels in the same order, but for attention, which has a fused one there. One step is 1e-2.
    on_cpu = toy.Record()
    with sdpa_kernel(SDPBackend.MATH):
        module = toy.module(OBJECTIVES["ppo"](), mini_batch=8, tokens=40, group_size=1)
        toy.fit(module, [toy.pipo(), on_cpu], TOY_ITERATIONS)
    for name, weight in on_cpu.weights[-1].items():
        torch.testing.assert_close(simulated[name], weight, rtol=0, atol=2e-4)


def check_rules(outcomes: dict[str, Any]) -> None:
    """The simulation refuses and waits where CUDA's documentation says that it does."""
    assert outcomes == {
        "add both": "refused",
        "multiply by a scalar of the CPU": [],
        "index the CPU from the GPU": "refused",
        "index the GPU from the CPU": ["sent"],
        "take by mask": ["shape"],
        "fill by mask": [],
        "choose by mask": [],
        "truth of a tensor": ["read"],
        "to a list": ["read"],
        "to the CPU": ["read"],
        "to the GPU": ["sent"],
        "to the GPU, not waiting": ["sent"],
        "pinned to the GPU": ["sent"],
        "pinned to the GPU, not waiting": ["pinned"],
        "copied into the GPU's": ["sent"],
    }


@pytest.mark.slow
def test_every_objective_and_measurement(request, tmp_path):
    check_toys(results(SLOW, request, tmp_path))


@pytest.mark.slow
def test_every_algorithm_with_and_without_pipo(request, tmp_path):
    for case, result in results(RUNS, request, tmp_path).items():
        assert len(result["metrics"]) == 3, case
        assert result["steps"] > 0, case
        update = waits(result, "update")
        assert update.total() <= PER_OPTIMIZER_STEP * result["steps"], f"{case}: {update}"
