"""Runs that train adapters: what is saved, resumed, exported and read; reference, teacher and critic."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.callbacks.export import ModelExport
from pipo.callbacks.step_options import Rejection
from pipo.callbacks.teacher import TeacherAverage
from pipo.lm.policy import load_policy, load_tokenizer
from pipo.lm.reference import WithoutAdapters
from pipo.lm.sharding import full_tensors
from pipo.lm.spec import embedded_model, merged_policy
from pipo.modules.hooks import RolloutCallback
from pipo.runs.checkpoints import STATE, finished_checkpoints
from pipo.scoring import score
from pipo.training import train
from tests import toy
from tests.integration import test_ppo, test_sdpo

AVERAGE = 0.25
TINY = embedded_model("tiny")


def adapted(objective=None, **changes):
    """The toy's module with adapters on its policy."""
    module = toy.module(objective, learning_rate=0.02, **changes)
    module._load_policy = toy.adapted_policy
    return module


def sdpo():
    return adapted(test_sdpo.sdpo(test_sdpo.OFFICIAL, AVERAGE))


class Frozen(RolloutCallback):
    """Keeps what must not move, as it was before and is after training."""

    def on_train_start(self, trainer, pl_module) -> None:
        self.before = self._of(pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        self.after = self._of(pl_module)

    def _of(self, module):
        models = {"policy": module.policy, "critic": getattr(module, "critic", module.policy)}
        return {
            f"{of}.{name}": weight.detach().clone()
            for of, model in models.items()
            for name, weight in model.named_parameters()
            if not weight.requires_grad
        }


def test_adapters_learn():
    record = toy.Record()
    toy.fit(adapted(toy.grpo(kl_coef=0.01)), [record, toy.pipo(window=4)], 20)
    rewards = [each.mean_reward for each in record.stats]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 5 * 0.2


def test_nothing_else_moves_is_saved_or_has_moments():
    """Of the policy and of the critic, which has adapters of its own and a head."""
    record, frozen = toy.Record(), Frozen()
    trainer = toy.fit(adapted(test_ppo.ppo()), [record, frozen, toy.pipo(window=2)], 3)
    assert frozen.before
    assert all(torch.equal(frozen.before[name], value) for name, value in frozen.after.items())
    saved = record.weights[-1]
    assert all(".lora_" in name or name.startswith("critic.head.") for name in saved)
    for optimizer, model, count in zip(trainer.optimizers, ("policy", "critic"), (12, 14), strict=True):
        assert len(optimizer.state_dict()["state"]) == count
        assert sum(name.startswith(f"{model}.") for name in saved) == count
    assert any(
        (record.weights[0][name] != value).any() for name, value in saved.items() if "critic.model" in name
    )


def test_the_penalty_is_against_the_model_without_adapters():
    scores = []

    class Compare(RolloutCallback):
        def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
            assert isinstance(module.reference, WithoutAdapters)
            plain = toy.make_policy()
            scores.append((batch.ref_logprobs, module._annotator.score(plain, rollouts)))

    record = toy.Record()
    toy.fit(adapted(toy.grpo(kl_coef=0.05)), [Compare(), record], 3)
    assert len(scores) == 3
    assert all(torch.equal(found, expected) for found, expected in scores)
    assert record.metrics[0]["policy/kl_ref"] > 0.01


def test_the_averaged_teacher_holds_averages_of_the_adapters_alone():
    class Averages(toy.Record):
        def on_train_start(self, trainer, pl_module) -> None:
            self.expected = self._of(pl_module)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            new = self._of(pl_module)
            self.expected = [old + AVERAGE * (n - old) for old, n in zip(self.expected, new, strict=True)]
            found = list(pl_module.teacher.parameters())
            for mine, expected, now in zip(found, self.expected, new, strict=True):
                torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)
                assert not torch.equal(mine, now)

        def _of(self, module):
            return [w.detach().clone() for w in module.policy.parameters() if w.requires_grad]

    record = Averages()
    toy.fit(sdpo(), [TeacherAverage(weight=AVERAGE), record], 4)
    assert len(record.weights) == 4
    assert record.metrics[-1]["policy/divergence"] > 0


@pytest.mark.parametrize("case", ["grpo", "ppo", "sdpo"])
def test_resumed_it_equals_the_uninterrupted_run_bit_for_bit(tmp_path, case):
    def made():
        if case == "sdpo":
            return sdpo(), [TeacherAverage(weight=AVERAGE), toy.pipo(window=2)]
        if case == "ppo":
            return adapted(test_ppo.ppo()), [toy.pipo(window=2)]
        rejection = Rejection(most_spread=0.7, most_harm=1e-6, shrink=0.5)
        callbacks = [toy.step_control(rejection=rejection), toy.pipo(window=2, feedback="paired")]
        return adapted(toy.grpo(kl_coef=0.05), look_back="cpu"), callbacks

    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx + 1 == 4

    whole, second = toy.Record(), toy.Record()
    module, callbacks = made()
    toy.fit(module, [whole, *callbacks], 7)
    if case == "grpo":  # going back to earlier adapters is among what is repeated
        assert any(row["pipo/undone"] for row in whole.metrics)
    module, callbacks = made()
    saving = IterationCheckpoint(folder=str(tmp_path), every=100, keep=1, best=False)
    toy.fit(module, [*callbacks, Stop(), saving], 7)
    (checkpoint,) = finished_checkpoints(tmp_path)
    saved = torch.load(checkpoint / STATE, weights_only=True)["state_dict"]
    assert not any("base_layer" in name or "embed_tokens" in name for name in saved)
    module, callbacks = made()
    toy.fit(module, [second, *callbacks], 7, checkpoint)
    assert [s.mean_reward for s in second.stats] == [s.mean_reward for s in whole.stats[4:]]
    last, expected = second.weights[-1], whole.weights[-1]
    assert last.keys() == expected.keys()
    assert all(torch.equal(last[name], value) for name, value in expected.items())


def test_a_run_leaves_the_merged_model_and_the_adapters_which_score_alike(compose_config, tmp_path):
    """The embedded model, as from the command line: a checkpoint, both exports, and all three are read."""
    run = tmp_path / "run"
    small = ("evaluation.problems=4", "evaluation.samples=1", "evaluation.ks=[1]")
    sizes = ("iterations=2", "recipe.responses=16", "recipe.mini_batch=16", "curve.every=2")
    rate = ("recipe.learning_rate=1e-2", "model.lora.rank=4", "model.lora.targets=[q_proj,down_proj]")
    train(compose_config(*small, *sizes, *rate, f"output_dir={run}"), [])
    adapters = load_file(run / "adapter/adapter_model.safetensors")
    (checkpoint,) = finished_checkpoints(run / "checkpoints")
    state = torch.load(checkpoint / STATE, weights_only=True)["state_dict"]
    assert len(state) == len(adapters) == 16
    for name, value in adapters.items():
        key = name.replace("base_model.model.", "policy.model.").replace(".weight", ".default.weight")
        assert torch.equal(state[key], value)
    whole = load_policy(str(run / "model"), "float32").state_dict()
    from_folder = merged_policy(TINY, run / "adapter").state_dict()
    assert all(torch.equal(whole[name], value) for name, value in from_folder.items())
    start = load_policy(TINY, "float32").state_dict()
    moved = {name for name, value in start.items() if not torch.equal(whole[name], value)}
    assert moved == {name for name in start if "q_proj" in name or "down_proj" in name}
    said = []
    for number, model in enumerate((run, run / "adapter", checkpoint)):
        out = tmp_path / f"eval-{number}"
        score(compose_config(*small, f"model.path={model}", f"output_dir={out}", name="eval"), [])
        rows = (out / "samples.jsonl").read_text().splitlines()
        said.append([json.loads(row) for row in rows])
    assert said[0] == said[1] == said[2]


def test_an_export_that_fails_is_kept_as_the_reason(tmp_path):
    """The base model is in no folder: the adapters are written, and why they are not merged is known."""
    export = ModelExport(folder=str(tmp_path / "model"), tokenizer=load_tokenizer(TINY))
    module = adapted()
    toy.fit(module, [export], 1)
    assert export.problem is not None
    assert "\n" not in export.problem
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()
    assert len(dict(full_tensors(module.policy))) == 12
