"""Every algorithm with and without PIPO on the embedded default, for the same number of sampled responses.

    python bench/algorithms.py [--seeds 1 2 3] [--iterations 60] [--jobs 2] [--out outputs/algorithms]

An algorithm whose dynamic sampling draws more than one round per iteration gets fewer iterations, so that all
sample about the same number of responses; what was sampled stands in the table. Each run uses one thread.
Finished runs in the output folder are not run again. Writes ``table.csv`` and ``table.md`` beside the runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent
ALGORITHMS = ("ppo", "grpo", "gspo", "dapo", "sdpo", "rloo", "dr_grpo", "cispo")
ARMS = ("none", "default")
# Rounds of sampling per iteration that dynamic sampling needs at least here; the table says what it took.
ROUNDS = {"dapo": 2}
# 97.5 % quantiles of Student's t for 1 to 9 degrees of freedom, which bounds the number of seeds.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def run(algorithm: str, arm: str, seed: int, iterations: int, out: Path) -> Path:
    """One run, unless it is there already; its folder."""
    iterations //= ROUNDS.get(algorithm, 1)
    folder = out / f"{algorithm}-{arm}-{seed}-{iterations}"
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted benchmark left behind
        command = [sys.executable, str(ROOT / "train.py"), f"algo={algorithm}", f"pipo={arm}", f"seed={seed}"]
        budget = [f"iterations={iterations}", f"output_dir={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, *budget], check=True, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT)
        print("finished", folder.name, flush=True)
    return folder


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % t-interval over seeds, in percent."""
    mean = 100 * statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    error = 100 * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} ± {T_QUANTILES[len(values) - 2] * error:.1f}"


def cell(folders: list[Path]) -> dict[str, Any]:
    """One line of the table from the runs of all seeds."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    rows = [
        json.loads(line) for folder in folders for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    coefficients = [abs(row["pipo/coefficient"]) for row in rows if "pipo/coefficient" in row]
    responses = OmegaConf.load(folders[0] / "config.yaml").recipe.responses
    sampled = sum(responses * row.get("rollout/rounds", 1.0) for row in rows) / len(folders)
    return {
        "sampled responses": round(sampled),
        "before": interval([s["before"]["pass@1"] for s in summaries]),
        "pass@1 after": interval([s["after"]["pass@1"] for s in summaries]),
        "seconds": round(statistics.mean(s["seconds"] for s in summaries)),
        "applied": f"{statistics.mean(row.get('pipo/applied', 0.0) for row in rows):.2f}",
        "mean abs. coefficient": f"{statistics.mean(coefficients):.2f}" if coefficients else "",
    }


def main() -> None:
    """Run what is missing and write the table."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=60, help="of 128 responses each")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("outputs/algorithms"))
    options = parser.parse_args()
    if len(options.seeds) > len(T_QUANTILES) + 1:
        parser.error(f"at most {len(T_QUANTILES) + 1} seeds")
    out = options.out.resolve()
    cells = [(algorithm, arm) for algorithm in ALGORITHMS for arm in ARMS]
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = {
            (algorithm, arm, seed): pool.submit(run, algorithm, arm, seed, options.iterations, out)
            for seed in options.seeds
            for algorithm, arm in cells
        }
        folders = {key: future.result() for key, future in runs.items()}
    lines = []
    for algorithm, arm in cells:
        found = [folders[algorithm, arm, seed] for seed in options.seeds]
        lines.append({"algorithm": algorithm, "pipo": arm, **cell(found)})
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    table = [list(lines[0]), ["---"] * len(lines[0]), *[list(line.values()) for line in lines]]
    text = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table)
    (out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
