"""An algorithm that lives outside the package: one class, one YAML file, and policy improvement on top."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from pipo.lm.policy import load_policy
from pipo.training import train
from tests.conftest import ROOT
from tests.programs import run

CLASS = '''
"""Advantages are signs: above or below the mean of the group."""

from torch import Tensor

from pipo.modules.objectives.base import MicroBatch
from pipo.modules.objectives.group import GroupObjective

#: Name and shape of what the two methods saw.
calls: list[tuple[str, tuple[int, ...]]] = []


class SignObjective(GroupObjective):
    def __init__(self, *, scale: float, **clip_and_loss) -> None:
        super().__init__(**clip_and_loss)
        self.scale = scale

    def advantages(self, rewards: Tensor, group_size: int) -> Tensor:
        calls.append(("advantages", tuple(rewards.shape)))
        groups = rewards.view(-1, group_size)
        return self.scale * (groups - groups.mean(dim=1, keepdim=True)).sign().view(-1)

    def surrogate(self, ratio: Tensor, logprobs: Tensor, micro: MicroBatch) -> Tensor:
        calls.append(("surrogate", tuple(ratio.shape)))
        return -ratio.clamp(max=1 + self.clip.high) * micro.advantages
'''
FILE = """
defaults: [common/group@_here_, _self_]
name: sign
objective:
  _target_: foreign_objective.SignObjective
  clip_low: 0.2
  clip_high: 0.2
  dual_clip: null
  aggregation: token-mean
  kl_coef: 0.0
  scale: 0.5
"""
SMALL = (
    "recipe.responses=32",
    "recipe.mini_batch=32",
    "evaluation.problems=2",
    "evaluation.samples=1",
    "evaluation.ks=[1]",
    "curve.every=100",
    "iterations=4",
    "pipo.window=2",
    "task.source.train_problems=64",
)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A folder with the class and, in ``conf/algo``, its file; the class can be imported."""
    folder = tmp_path / "mine"
    (folder / "conf/algo").mkdir(parents=True)
    (folder / "foreign_objective.py").write_text(CLASS)
    (folder / "conf/algo/sign.yaml").write_text(FILE)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("foreign_objective", None)


def check(cfg: DictConfig) -> None:
    """Train; the objective was used, weights moved, and policy improvement went through it too."""
    train(cfg, [])
    import foreign_objective  # type: ignore[import-not-found]

    folder = cfg.output_dir
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    assert max(row["pipo/applied"] for row in rows) == 1
    assert all(row["pipo/grad_norm"] > 0 for row in rows if row["pipo/applied"])
    # Once per iteration on 4 prompts with 8 responses.
    assert [shape for name, shape in foreign_objective.calls if name == "advantages"] == 4 * [(32,)]
    assert any(name == "surrogate" for name, _ in foreign_objective.calls)
    start = load_policy(str(ROOT / "pipo/lm/assets/tiny"), "float32").state_dict()
    end = load_policy(f"{folder}/model", "float32").state_dict()
    assert any(not torch.equal(start[name], end[name]) for name in start)


def test_with_a_file_of_its_own_on_the_search_path(foreign, compose_config, tmp_path):
    cfg = compose_config(
        f"hydra.searchpath=[file://{foreign / 'conf'}]", "algo=sign", *SMALL, f"output_dir={tmp_path / 'run'}"
    )
    assert cfg.algo.objective._target_ == "foreign_objective.SignObjective"
    assert cfg.algo.prompts == 4
    check(cfg)


def test_with_nothing_but_overrides(foreign, compose_config, tmp_path):
    """GRPO's file, its target replaced: the key that the new class does not know goes, its own comes."""
    cfg = compose_config(
        "algo=grpo",
        "algo.name=sign",
        "algo.objective._target_=foreign_objective.SignObjective",
        "~algo.objective.advantage_eps",
        "+algo.objective.scale=0.5",
        *SMALL,
        f"output_dir={tmp_path / 'run'}",
    )
    check(cfg)


@pytest.mark.parametrize("how", ["--config-dir={}/conf", "hydra.searchpath=[file://{}/conf]"])
def test_the_command_line_finds_the_file(foreign, tmp_path, how):
    code, out, err = run("train.py", how.format(foreign), "algo=sign", "--cfg", "job", cwd=tmp_path)
    assert code == 0, err
    assert "_target_: foreign_objective.SignObjective" in out
