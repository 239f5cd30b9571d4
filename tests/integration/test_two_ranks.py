"""Two processes (gloo) train what one process trains: same weights, same metrics, ranks alike bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).parent / "two_ranks.py"


def train(name: str, ranks: int, out: Path):
    """What every rank ended with."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), name, str(ranks), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"{name}-{ranks}-{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "ppo", "sdpo"])
def test_two_ranks_train_what_one_process_trains(tmp_path, name):
    ((whole, metrics),) = train(name, 1, tmp_path)
    (first, first_metrics), (second, second_metrics) = train(name, 2, tmp_path)
    assert any(row["pipo/applied"] == 1 for row in metrics)
    for key, value in whole.items():
        assert torch.equal(first[key], second[key])
        # Sums in another order differ by 1e-8; six to twelve AdamW steps of 1e-3 (critic: 1e-2) turn that
        # into 1e-5 at most, where a wrong denominator moves weights by whole steps.
        torch.testing.assert_close(first[key], value, rtol=0, atol=2e-4)
    for one, two, other in zip(metrics, first_metrics, second_metrics, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            if key.startswith("time/") or "per_second" in key:
                continue
            assert two[key] == other[key]
            assert two[key] == pytest.approx(value, rel=2e-2, abs=1e-4), key


def test_ranks_agree_on_rounds_and_steps_when_their_groups_do_not(tmp_path):
    """Each rank fills its own half, so the batch is not the one process's; the ranks must still agree."""
    (first, first_metrics), (second, second_metrics) = train("dapo", 2, tmp_path)
    assert all(torch.equal(first[key], second[key]) for key in first)
    rounds = [row["rollout/rounds"] for row in first_metrics]
    assert rounds == [row["rollout/rounds"] for row in second_metrics]
    assert max(rounds) == 2
