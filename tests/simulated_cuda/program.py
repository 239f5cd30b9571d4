"""A program for tests: training and evaluation on a simulated GPU, case after case.

python program.py GUARD OUT CASE...

A case is

- ``rules:``, what the simulated device refuses and counts;
- ``toy:<objective>[:<further>]``, a few iterations of the toy, the last one with PIPO's update; further is
  ``bfloat16``, ``blocks`` for a head that is applied block by block, ``look_back=device``, ``look_back=cpu``
  or ``step_control``;
- ``run:<override>,<override>...``, a run as ``train.py`` makes it, which is then resumed, and its model
  scored as ``eval.py`` does it.

What each did goes into a file of JSON. A process of its own, because the guard comes before torch.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.simulated_cuda import guard

if TYPE_CHECKING:
    from tests.simulated_cuda.ledger import Ledger

TOY_ITERATIONS = 5
# As small as a run can be that still samples, scores, trains, evaluates, saves and compares.
SMALL_RUN = (
    "iterations=2",
    "recipe.responses=16",
    "recipe.mini_batch=8",
    "task.max_response_tokens=6",
    "evaluation.problems=2",
    "evaluation.samples=2",
    "evaluation.ks=[1]",
    "curve.every=2",
    "curve.samples=1",
    "checkpoint.every=1",
)


def rules_case(out: Path, _: str) -> dict[str, Any]:
    """Each operation by itself: what the ledger says of it, or that it is refused."""
    import torch

    from tests.simulated_cuda.device import CUDA, LEDGER, DeviceMismatch

    here, there = torch.arange(3.0), torch.arange(3.0, device=CUDA)
    mask = there > 0
    index = torch.tensor([0, 2])
    operations: dict[str, Callable[[], Any]] = {
        "add both": lambda: here + there,
        "multiply by a scalar of the CPU": lambda: there * torch.tensor(2.0),
        "index the CPU from the GPU": lambda: here[mask],
        "index the GPU from the CPU": lambda: there[index],
        "take by mask": lambda: there[mask],
        "fill by mask": lambda: there.clone().__setitem__(mask, 0.0),
        "choose by mask": lambda: torch.where(mask, there, 0.0),
        "truth of a tensor": lambda: bool(mask.any()),
        "to a list": there.tolist,
        "to the CPU": there.cpu,
        "to the GPU": lambda: here.to(CUDA),
        "to the GPU, not waiting": lambda: here.to(CUDA, non_blocking=True),
        "pinned to the GPU": lambda: here.pin_memory().to(CUDA),
        "pinned to the GPU, not waiting": lambda: here.pin_memory().to(CUDA, non_blocking=True),
        "copied into the GPU's": lambda: there.clone().copy_(here),
    }
    outcomes: dict[str, Any] = {}
    for name, operation in operations.items():
        LEDGER.clear()
        try:
            operation()
            outcomes[name] = [place.kind for place in LEDGER.counts.elements()]
        except DeviceMismatch:
            outcomes[name] = "refused"
    return {"outcomes": outcomes}


def toy_case(out: Path, objective: str, *further: str) -> dict[str, Any]:
    """The toy's training loop with Lightning's own way to one GPU."""
    import torch

    from pipo.callbacks.teacher import TeacherAverage
    from pipo.lm import logprobs
    from tests import toy
    from tests.integration.two_ranks import OBJECTIVES

    made = OBJECTIVES[objective]()
    averaged = made.distillation is not None and made.distillation.teacher_average < 1
    places = [each.removeprefix("look_back=") for each in further if each.startswith("look_back=")]
    control = "step_control" in further
    module = toy.module(
        made,
        mini_batch=8,
        tokens=40,
        group_size=1 if made.critic is not None else 4,
        rounds=2 if objective == "dapo" else 0,
        compute_dtype=torch.bfloat16 if "bfloat16" in further else None,
        look_back=places[0] if places else "device" if control else None,  # type: ignore[arg-type]
    )
    record = toy.Record()
    callbacks = [toy.pipo(), *([TeacherAverage(weight=0.05)] if averaged else []), record]
    if control:
        callbacks.append(toy.step_control())
    small = mock.patch.object(logprobs, "GPU_BLOCK_LOGITS", 1)
    with small if "blocks" in further else nullcontext():
        toy.fit(module, callbacks, TOY_ITERATIONS, accelerator="cuda")
    assert module.policy.device.type == "cpu", "the trainer has not given the device back"
    weights = {name: value.cpu() for name, value in record.weights[-1].items()}
    torch.save(weights, out.with_suffix(".pt"))
    return {"metrics": record.metrics}


def run_case(out: Path, *overrides: str) -> dict[str, Any]:
    """``train.py``, the same with ``resume=`` for one more iteration, and ``eval.py`` on what it left."""
    from hydra import compose, initialize_config_dir

    from pipo.analysis.plotting import curves
    from pipo.analysis.plotting.style import new_figure
    from pipo.scoring import score
    from pipo.training import train

    folder = out.with_suffix("")
    with initialize_config_dir(version_base="1.3", config_dir=str(Path(__file__).parents[2] / "conf")):
        first = compose("train", [*SMALL_RUN, *overrides, f"output_dir={folder}"])
        again = [f"resume={folder}", "iterations=3"]
        resumed = compose("train", again)
        evaluation = [f"model.path={folder / 'model'}", "evaluation.problems=2", "evaluation.samples=2"]
        scored = compose("eval", [*evaluation, "evaluation.ks=[1]", f"output_dir={out}-eval"])
    with mock.patch.object(curves, "draw", return_value=new_figure(1.0)):  # no device draws its panels
        train(first, [])
        train(resumed, again)
    score(scored, [])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    results = json.loads(Path(f"{out}-eval/results.json").read_text())
    return {"metrics": rows, "scored": results["results"]["arithmetic"]["samples"]}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {"rules": rules_case, "toy": toy_case, "run": run_case}


@contextmanager
def counting(ledger: Ledger, result: dict[str, Any]) -> Iterator[None]:
    """Put into the result what was waited for, and how many passes and steps there were."""
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook

    result |= {"micro_batches": 0, "scoring_passes": 0, "steps": 0}

    def passing(module: torch.nn.Module, _: Any) -> None:
        if type(module).__name__ in ("Policy", "Critic"):
            result["micro_batches" if torch.is_grad_enabled() else "scoring_passes"] += 1

    def stepped(*_: Any) -> None:
        result["steps"] += 1

    hooks = register_module_forward_pre_hook(passing), register_optimizer_step_post_hook(stepped)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        result["counts"] = [[*place, count] for place, count in sorted(ledger.counts.items())]


def main(library: Path, out: Path, cases: list[str]) -> None:
    """Run the cases; a failure is a result like any other."""
    guard.load(library)
    # First, because what libraries find out about torch.cuda when they are imported is not simulated.
    importlib.import_module("tests.conftest")  # registers what a configuration is composed of
    importlib.import_module("pipo.training")

    from tests.simulated_cuda.device import simulated_cuda

    for number, case in enumerate(cases):
        kind, _, rest = case.partition(":")
        arguments = rest.split("," if kind == "run" else ":")
        result: dict[str, Any] = {"error": None}
        with simulated_cuda() as ledger, counting(ledger, result):
            try:
                result |= KINDS[kind](out / f"case{number}", *arguments)
            except BaseException:
                result["error"] = traceback.format_exc(limit=-12)
        (out / f"{number}.json").write_text(json.dumps({"case": case, **result}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
