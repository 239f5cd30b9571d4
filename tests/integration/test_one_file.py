"""examples/pipo_in_one_file.py and the package make the same updates from the same rollouts."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from pipo import build
from pipo.callbacks.pipo import PIPOCallback
from pipo.callbacks.pipo_options import PipoOptions
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.modules.hooks import RolloutCallback
from tests.built import at_its_task
from tests.conftest import ROOT
from tests.programs import run

FILE = ROOT / "examples/pipo_in_one_file.py"
GROUP, ITERATIONS, WINDOW = 8, 6, 2
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def one_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pipo_in_one_file", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def copied(model: torch.nn.Module) -> Weights:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


class Before(RolloutCallback):
    """Keeps the rollouts."""

    def __init__(self) -> None:
        self.rollouts = []

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        self.rollouts.append((rollouts, batch.old_logprobs))


class After(RolloutCallback):
    """Keeps the weights as the closed loop and as the base update leave them."""

    def __init__(self) -> None:
        self.weights: dict[tuple[int, str], Weights] = {}

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        self.weights[stats.iteration, "pipo"] = copied(module.policy.model)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.weights[batch_idx, "policy"] = copied(pl_module.policy.model)


def batch_of(one_file: ModuleType, rollouts, old_logprobs: Tensor):
    """The package's rollouts as the file's batch: prompts repeated for each response, padded on the left."""
    prompts = [ids for ids in rollouts.prompts.prompt_ids for _ in range(GROUP)]
    width = max(map(len, prompts))
    ids, mask = torch.zeros(len(prompts), width, dtype=torch.int64), torch.zeros(len(prompts), width).bool()
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = True
    return one_file.Batch(
        prompt_ids=ids,
        prompt_mask=mask,
        response_ids=rollouts.completions.response_ids,
        response_mask=rollouts.completions.response_mask,
        old_logprobs=old_logprobs,
        rewards=rollouts.rewards,
    )


def test_the_same_rollouts_give_the_same_updates(one_file, compose_config, tmp_path):
    cfg = compose_config(
        "recipe.responses=32",
        "recipe.mini_batch=16",
        f"algo.group_size={GROUP}",
        f"pipo.window={WINDOW}",
        f"iterations={ITERATIONS}",
        "recipe.learning_rate=1e-5",
        f"output_dir={tmp_path}",
    )
    config = read(cfg, TrainConfig)
    assert isinstance(config.pipo, PipoOptions)
    setup = at_its_task(config)
    module, before, after = build.build_module(config, setup), Before(), After()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=[before, PIPOCallback(config.pipo), after],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=build.build_data(config, setup, module.objective))

    rollouts = iter(before.rollouts)
    model = one_file.load_model()
    start, found = copied(model), {}
    numbers = one_file.Numbers(
        iterations=ITERATIONS,
        prompts=4,
        group=GROUP,
        mini_batch=16,
        window=WINDOW,
        max_response_tokens=32,
        learning_rate=1e-5,
    )
    one_file.train(
        model,
        lambda model: batch_of(one_file, *next(rollouts)),
        numbers,
        lambda iteration, which: found.update({(iteration, which): copied(model)}),
    )
    # Verification begins with iteration K (counted from 0), and this seed has no undefined feedback.
    expected = [(t, "policy") for t in range(ITERATIONS)] + [(t, "pipo") for t in range(WINDOW, ITERATIONS)]
    assert sorted(found) == sorted(expected)
    for step, weights in found.items():
        there = after.weights[step]
        assert weights.keys() == there.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, there[name], rtol=0, atol=1e-6, msg=f"{step} {name}")
    # Six iterations with ten updates of 1e-5 move weights far more than that.
    last = found[ITERATIONS - 1, "policy"]
    assert max((last[name] - weight).abs().max() for name, weight in start.items()) > 5e-5
    moved = torch.cat([(last[name] - weight).flatten() for name, weight in start.items()])
    there = after.weights[ITERATIONS - 1, "policy"]
    apart = torch.cat([(last[name] - there[name]).flatten() for name in start])
    assert apart.norm() < 1e-3 * moved.norm()


def test_the_defaults_are_the_packages(one_file, compose_config):
    cfg, numbers = compose_config("output_dir=x"), one_file.Numbers()
    objective = cfg.algo.objective
    assert (numbers.seed, numbers.iterations) == (cfg.seed, cfg.iterations)
    sizes = (numbers.prompts, numbers.group, numbers.mini_batch)
    assert sizes == (cfg.algo.prompts, cfg.algo.group_size, cfg.recipe.mini_batch)
    assert numbers.learning_rate == cfg.recipe.learning_rate
    assert numbers.max_grad_norm == cfg.algo.optimizer.max_grad_norm
    assert numbers.max_response_tokens == cfg.task.max_response_tokens
    assert (numbers.clip_low, numbers.clip_high) == (objective.clip_low, objective.clip_high)
    assert numbers.dual_clip == objective.dual_clip
    loop = (numbers.negative_scale, numbers.window, numbers.lr_scale)
    assert loop == (cfg.pipo["lambda"], cfg.pipo.window, cfg.pipo.lr_scale)


def test_it_runs_and_prints_a_line_per_iteration():
    sizes = ("--iterations", "3", "--prompts", "2", "--group", "4", "--window", "2")
    code, out, err = run(str(FILE.relative_to(ROOT)), *sizes, cwd=ROOT, environment={"PYTHONPATH": str(ROOT)})
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == 3
    for t, line in enumerate(lines):
        assert re.fullmatch(rf" +{t}  reward \d\.\d{{3}}(  feedback .* coefficient .*)?  [\d.]+ s", line), (
            line
        )
