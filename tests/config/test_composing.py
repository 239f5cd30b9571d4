"""What the tests compose in parts is what Hydra composes in one go."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from tests import composing

LINES = (
    ("train", ()),
    ("train", ("pipo.lambda=0.3", "algo=ppo", "+my.rate=1e-5", "recipe.learning_rate=${my.rate}")),
    ("train", ("~pipo.window", "+reward_terms=overlong", "algo=dapo", "algo.reward_terms.overlong.buffer=4")),
    ("train", ("rollout.rejection={level: geometric, low: 0.5, high: null}", "output_dir=x")),
    ("train", ("experiment=science", "task.domain=physics", "precision@strategy=float32", "~logger")),
    ("train", ("+logger.mine._target_=x.Y", "logger={}", "++seed=3")),
    ("eval", ("benchmark=math", "evaluation.ks=[1]", "~benchmark.parts.math500")),
    ("eval", ("~benchmark", "+task@benchmark.parts.gsm8k=gsm8k", "+benchmark.name=gsm8k")),
)


def bare(cfg: DictConfig) -> tuple[object, list[str]]:
    """Everything but Hydra's part, and the keys in their order."""
    with open_dict(cfg):
        del cfg["hydra"]
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    return plain, list(plain)


@pytest.mark.parametrize(("name", "overrides"), LINES)
def test_in_parts_as_in_one_go(name, overrides):
    whole, parts = composing.composed_by_hydra(name, overrides), composing.composed(name, overrides)
    assert whole.hydra.runtime.choices == parts.hydra.runtime.choices
    assert bare(whole) == bare(parts)
    assert [OmegaConf.is_struct(cfg) for cfg in (whole, parts)] == [True, True]


@pytest.mark.parametrize(
    "overrides",
    [
        ("pipo.nope=1",),
        ("algo=nonsense",),
        ("algo=nonsense", "pipo.nope=1"),
        ("+algo=ppo",),
        ("seed=1,2",),
        ("pipo.lambda=[",),
    ],
)
def test_mistakes_are_the_same(overrides):
    said = []
    for composed in (composing.composed_by_hydra, composing.composed):
        with pytest.raises(CompactHydraException) as raised:
            composed("train", overrides)
        said.append((type(raised.value), str(raised.value)))
    assert said[0] == said[1]


def test_one_test_cannot_change_what_another_gets():
    first = composing.composed("train", ["algo=grpo"])
    first.pipo.window = 99
    assert composing.composed("train", ["algo=grpo"]).pipo.window != 99


def test_a_file_that_has_changed_is_read_again(tmp_path):
    file = tmp_path / "mine.yaml"
    for text, value in (("a: 1", 1), ("a: 2", 2), ("a: 3 # three", 3)):
        file.write_text(text)
        for _ in range(2):
            with initialize_config_dir(version_base="1.3", config_dir=str(tmp_path)):
                cfg = compose("mine")
            assert cfg.a == value
            cfg.a = 99
