"""Every algorithm with and without PIPO, on the embedded default, through the real configuration."""

from __future__ import annotations

import json
import math
import re
import statistics

import pytest

from pipo.training import train
from tests.conftest import ROOT

ALGORITHMS = sorted(path.stem for path in (ROOT / "conf/algo").glob("*.yaml"))
# GSPO is GRPO's run with another ratio, which tests/unit/test_objectives.py holds to golden values.
QUICK = ("ppo", "grpo", "dapo", "sdpo")
WINDOW = 3
ITERATIONS = 7


# Before the window is full, PIPO's runs are the baseline's; one is run without it, too.
@pytest.mark.parametrize(
    ("algo", "pipo"),
    [
        *(
            pytest.param(algo, "default", marks=[] if algo in QUICK else [pytest.mark.slow])
            for algo in ALGORITHMS
        ),
        *(
            pytest.param(algo, "none", marks=[] if algo == "grpo" else [pytest.mark.slow])
            for algo in ALGORITHMS
        ),
    ],
)
def test_seven_iterations(compose_config, tmp_path, algo, pipo):
    cfg = compose_config(
        f"algo={algo}",
        f"pipo={pipo}",
        *([f"pipo.window={WINDOW}"] if pipo != "none" else []),
        f"iterations={ITERATIONS}",
        "recipe.responses=16",
        "recipe.mini_batch=8",
        "evaluation.problems=4",
        "evaluation.samples=1",
        "evaluation.ks=[1]",
        "curve.every=100",
        "checkpoint.every=100",
        f"output_dir={tmp_path / 'run'}",
    )
    train(cfg, [])
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == ITERATIONS
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    explained = set(re.findall(r"`([^`]+)`", (ROOT / "docs/metrics.md").read_text()))
    assert {name for row in rows for name in row} - explained == {"iteration"}
    first, last = rows[: ITERATIONS // 2], rows[ITERATIONS // 2 :]
    reward = [statistics.mean(row["train/reward"] for row in half) for half in (first, last)]
    assert reward[1] > 0.5 * reward[0], "the reward collapsed"
    if pipo == "none":
        assert not any(name.startswith("pipo/") for row in rows for name in row)
        return
    compared = [row["iteration"] for row in rows if "pipo/progress" in row]
    # K values fill the window, so the first comparison is at iteration K + 1, which is K when counted from 0.
    assert compared[0] == WINDOW
    applied = [row for row in rows if row["pipo/applied"] == 1]
    assert applied
    # GSPO's narrow range can clip all of one of them, never of every one.
    assert any(row["pipo/grad_norm"] > 0 for row in applied)
