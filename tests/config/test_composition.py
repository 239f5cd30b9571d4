"""Every option composes, and the names that scripts rely on are there."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from pipo import build
from pipo.callbacks.pipo import PIPOCallback
from pipo.callbacks.pipo_options import PipoOptions
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from tests.built import at_its_task
from tests.conftest import ROOT


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def settable(plain) -> int:
    """Values that a user may set: neither targets nor references to another key."""
    if isinstance(plain, dict):
        return sum(settable(v) for key, v in plain.items() if not str(key).startswith("_"))
    return 0 if isinstance(plain, str) and plain.startswith("${") else 1


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group in ("algo", "pipo", "recipe", "rollout", "strategy", "logger", "task")
        for option in options(group)
    ],
)
def test_every_option_composes_and_resolves(compose_config, group, option):
    cfg = compose_config(f"{group}={option}", "output_dir=somewhere")
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("option", options("benchmark"))
def test_every_benchmark_composes_for_eval(compose_config, option):
    cfg = compose_config(f"benchmark={option}", "output_dir=somewhere", name="eval")
    OmegaConf.to_container(cfg, resolve=True)
    assert cfg.benchmark.name == option
    assert all(part.name == name for name, part in cfg.benchmark.parts.items())


def test_a_model_brings_its_recipe_and_another_can_be_chosen(compose_config):
    assert compose_config().recipe.learning_rate == 1e-5
    assert compose_config("model=smollm2_135m").recipe.responses == 32
    assert compose_config("recipe=paper").recipe.responses == 1024
    paper = compose_config("recipe=paper")
    # Table 5 of the paper: 128 prompts x 8, mini-batch 64 prompts, learning rate 1e-6, KL 0.001.
    assert (paper.algo.prompts, paper.algo.group_size, paper.recipe.mini_batch) == (128, 8, 64 * 8)
    assert (paper.recipe.learning_rate, paper.algo.objective.kl_coef) == (1e-6, 0.001)


def test_default_and_baseline_differ_in_the_pipo_group_alone(compose_config):
    default, none = (compose_config(f"pipo={option}", "output_dir=x") for option in ("default", "none"))
    resolved = [OmegaConf.to_container(cfg, resolve=True) for cfg in (default, none)]
    assert resolved[0].pop("pipo") != resolved[1].pop("pipo")
    assert resolved[0] == resolved[1]


def test_the_word_lambda_works_on_the_command_line(compose_config):
    cfg = compose_config("pipo.lambda=0.25", "pipo.window=5")
    options = read(cfg, TrainConfig).pipo
    assert isinstance(options, PipoOptions)
    callback = PIPOCallback(options)
    assert callback.options.negative_scale == 0.25
    assert callback.history.maxlen == 5


def test_the_composed_configuration_stays_small(compose_config):
    assert settable(OmegaConf.to_container(compose_config("output_dir=x"))) <= 81


def test_the_reference_model_is_loaded_only_when_a_term_needs_it(compose_config, tmp_path):
    for recipe, needed in (("tiny", False), ("paper", True)):
        cfg = compose_config(f"recipe={recipe}", f"output_dir={tmp_path}")
        config = read(cfg, TrainConfig)
        module = build.build_module(config, at_its_task(config))
        assert module.objective.needs_reference is needed
        module.configure_model()
        assert (module.reference is not None) is needed
