"""The same GRPO run by this package and by TRL, in turn, on this machine.

    python bench/vs_trl.py [--case plain] [--rounds 5] [--iterations N] [--out vs_trl.json]

Cases: ``plain`` (TRL at its best CPU settings), ``defaults`` (TRL as it comes), ``vocabulary`` (32,768
tokens), ``straggler`` (one response of 200 tokens in every batch), ``smollm2`` (135 million parameters),
``two_cores`` (two threads there, two processes here) and ``gpu`` (Qwen3-0.6B's shape with random weights, on
one GPU, products in bfloat16 on both sides). Both sides get the same model, prompts, sizes, learning rate and
AdamW, and one thread but for ``two_cores``. Every round has a seed of its own and takes the sides in turn.
TRL runs in ``.venv-bench``, which ``make bench`` sets up.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import ruler, workload
from tests.gpu.wide_model import SOME_REWARD

PEER = ruler.ROOT / ".venv-bench" / "bin" / "python"
AFTER_MARK = r"#([^#]*)$"
FIRST_NUMBER = r"^\s*(\d+)"
# Iterations that are not counted: allocators and caches are still cold.
SKIP = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """The comparison that both sides run."""

    source: str = "tiny"
    """Name of the workload, see :func:`bench.workload.prepare`."""
    vocabulary: int | None = None
    """Pad the model's vocabulary to so many tokens; None leaves it."""
    iterations: int = 40
    """Iterations of each run, unless the command line says otherwise."""
    response_tokens: int = 40
    """Longest response, in tokens."""
    learning_rate: float = 1e-4
    """Learning rate of AdamW, constant."""
    pattern: str = AFTER_MARK
    """Regular expression that finds the answer in a response."""
    profile: str = "lean"
    """Profile of TRL's settings, ``lean`` or ``default``; see ``bench/peer_trl.py``."""
    micro_batch: int = 64
    """Responses per forward pass of TRL; of 16, 32, 64 and 128 the one that was fastest here, or the smallest
    when none was.
    """
    straggler: bool = False
    """Hold one response of each batch open up to the limit."""
    cores: int = 1
    """Threads of TRL, and processes of this package."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where both compute. On a GPU seconds are the clock's, products are in bfloat16 and activations are
    computed again; and every second response has the reward 1, because random weights solve nothing.
    """
    scored: bool = True
    """Whether the trained models are scored on the held-out problems."""


CASES = {
    "plain": Case(),
    "defaults": Case(profile="default", micro_batch=128),
    "vocabulary": Case(vocabulary=32768, micro_batch=32, iterations=5),
    "straggler": Case(straggler=True, response_tokens=200, micro_batch=16, iterations=8),
    "smollm2": Case(
        source="smollm2",
        response_tokens=64,
        iterations=3,
        learning_rate=1e-6,
        pattern=FIRST_NUMBER,
        micro_batch=16,
        scored=False,  # takes longer than the runs
    ),
    "two_cores": Case(cores=2),
    "gpu": Case(
        source="wide",
        device="cuda",
        response_tokens=512,
        iterations=3,
        learning_rate=1e-6,
        profile="default",
        micro_batch=32,
        scored=False,
    ),
}
PROMPTS, GROUP = 16, 8
OURS = "ours.json"
# Not --config-dir, with which Hydra composes the configuration again.
OWN_OPTIONS = f"hydra.searchpath=[file://{ruler.ROOT / 'bench' / 'conf'}]"


def words(case: Case, folder: Path, seed: int, out: Path) -> list[str]:
    """What ``train.py`` is told."""
    made = [
        OWN_OPTIONS,
        *("task=expressions", f"task.source.folder={folder}", f"task.source.pattern='{case.pattern}'"),
        f"task.max_response_tokens={case.response_tokens}",
        *(f"model={folder}", "recipe=tiny", f"recipe.responses={PROMPTS * GROUP}"),
        *(f"recipe.learning_rate={case.learning_rate}", f"algo.group_size={GROUP}", "pipo=none"),
        *("algo.optimizer.beta2=0.99", "algo.optimizer.weight_decay=0.0"),
        "algo.objective.aggregation=seq-mean-token-mean",
        *(f"iterations={case.iterations}", f"seed={seed}", "curve.every=1000000", "checkpoint.best=false"),
        *(f"checkpoint.every={case.iterations}", f"samples.every={case.iterations}"),
        *("evaluation.problems=1", "evaluation.samples=1", "evaluation.ks=[1]"),
        f"trainer.accelerator={case.device}",
        *("+callbacks.stamps._target_=bench.stamps.IterationStamps", f"+callbacks.stamps.path={out / OURS}"),
        f"output_dir={out / 'run'}",
    ]
    if case.device == "cpu":
        made.append("+callbacks.timers._target_=bench.cpu_timers.CpuTimers")
    else:
        made += ["precision@strategy=bfloat16", "model.gradient_checkpointing=true", SOME_REWARD]
    if case.straggler:
        made.append("+callbacks.straggler._target_=bench.stamps.Straggler")
    if case.cores > 1:
        made += ["strategy=ddp", f"trainer.devices={case.cores}"]
    return made


def ours(case: Case, folder: Path, seed: int, out: Path) -> dict[str, Any]:
    """One run of ``train.py``."""
    ruler.run_program([sys.executable, "train.py", *words(case, folder, seed, out)])
    return json.loads((out / OURS).read_text(encoding="utf-8")) | {"model": str(out / "run" / "model")}


def theirs(case: Case, folder: Path, seed: int, out: Path) -> dict[str, Any]:
    """One run of ``bench/peer_trl.py``."""
    stamps, saved = out / "theirs.json", out / "saved"
    settings = {
        "workload": folder,
        "profile": case.profile,
        "iterations": case.iterations,
        "prompts": PROMPTS,
        "group": GROUP,
        "response-tokens": case.response_tokens,
        "micro-batch": case.micro_batch,
        "learning-rate": case.learning_rate,
        "pattern": case.pattern,
        "seed": seed,
        "threads": case.cores,
        "device": case.device,
        "stamps": stamps,
        "save": saved,
    }
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    arguments += ["--straggler"] if case.straggler else []
    ruler.run_program([str(PEER), "bench/peer_trl.py", *arguments], case.cores)
    return json.loads(stamps.read_text(encoding="utf-8")) | {"model": str(saved)}


def score(model: str, case: Case, folder: Path, out: Path) -> float:
    """Held-out pass@1 of a trained model, the same for both sides."""
    part = "benchmark.parts.expressions"
    overrides = [
        *(f"model={model}", "benchmark=expressions", f"{part}.source.folder={folder}"),
        *(f"{part}.source.pattern='{case.pattern}'", f"{part}.max_response_tokens={case.response_tokens}"),
        *("evaluation.samples=2", "evaluation.ks=[1]", f"output_dir={out}"),
    ]
    ruler.run_program([sys.executable, "eval.py", "--config-dir", "bench/conf", *overrides])
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))["results"]
    return float(results["expressions"]["pass@1"])


def one_round(case: Case, folder: Path, number: int, out: Path) -> dict[str, dict[str, float]]:
    """Both sides once, the one that begins by turns."""
    sides = [("pipo", ours), ("trl", theirs)]
    found: dict[str, dict[str, float]] = {}
    for name, run in sides if number % 2 else reversed(sides):
        place = out / f"{name}{number}"
        place.mkdir()
        launched = time.time()
        result = run(case, folder, number, place)
        rows = result["rows"][SKIP:]
        means = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
        found[name] = {**means, "setup": result["began"] - launched, "peak_gib": result["peak_gib"]}
        if case.scored:
            found[name]["pass@1"] = score(result["model"], case, folder, place / "scores")
    return found


def report(name: str, case: Case, rounds: list[dict[str, dict[str, float]]]) -> None:
    """Median and range over the rounds of both sides and of their ratio."""
    table = Table(title=f"{name}: {len(rounds)} rounds of {case.iterations} iterations, per iteration")
    for heading in ("", "pipo", "TRL", "TRL / pipo, by round"):
        table.add_column(heading, justify="right" if heading else "left")
    for key in rounds[0]["pipo"]:
        both = [[found[side][key] for found in rounds] for side in ("pipo", "trl")]
        ratios = [b / a for a, b in zip(*both, strict=True) if a] or [float("nan")]
        table.add_row(key, *(ruler.Spread.of(values).show() for values in (*both, ratios)))
    console = Console()
    console.print(table)
    console.print(
        "wall, cpu, generate, setup (start to first iteration): seconds; zero_variance: share of groups"
    )


def main() -> None:
    """Measure and print."""
    parser = ruler.parser(__doc__)
    parser.add_argument("--case", choices=CASES, default="plain")
    parser.add_argument("--iterations", type=int, help="of each run; the case's own if left out")
    parser.add_argument("--workload", help="tiny, smollm2, wide or a folder; the case's own if left out")
    options = parser.parse_args()
    if not PEER.exists():
        sys.exit(f"{PEER} is missing; make bench sets it up")
    case = CASES[options.case]
    if options.iterations:
        case = replace(case, iterations=options.iterations)
    if options.workload:
        case = replace(case, source=options.workload)
    with tempfile.TemporaryDirectory() as scratch:
        folder = workload.prepare(case.source, Path(scratch) / "workload", case.vocabulary)
        rounds = []
        for number in range(1, options.rounds + 1):
            rounds.append(one_round(case, folder, number, Path(scratch)))
            # After every round, so that nothing is lost.
            written = {"case": options.case, "iterations": case.iterations, "rounds": rounds}
            ruler.write(options.out, written)
    report(options.case, case, rounds)


if __name__ == "__main__":
    main()
