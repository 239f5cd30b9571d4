"""Every option composes, and the names that scripts rely on are there."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from pipo import build
from pipo.callbacks.pipo import PIPOCallback
from pipo.callbacks.pipo_options import PipoOptions
from pipo.config.command_line import expand_task
from pipo.config.reading import read
from pipo.config.single_benchmarks import single_benchmarks
from pipo.config.tree import TrainConfig
from tests.built import at_its_task
from tests.conftest import ROOT


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


SINGLE = sorted(single_benchmarks(ROOT / "conf"))


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
    needed = {"science": ["task.domain=biology"], "prompts": ["reward=mine.py:f"]}.get(option, [])
    cfg = compose_config(f"{group}={option}", *needed, "output_dir=somewhere")
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("option", [*options("benchmark"), *SINGLE])
def test_every_benchmark_composes_for_eval(compose_config, option):
    needed = ["reward=mine.py:f"] if option == "prompts" else []
    cfg = compose_config(f"benchmark={option}", *needed, "output_dir=somewhere", name="eval")
    OmegaConf.to_container(cfg, resolve=True)
    assert cfg.benchmark.name == option
    assert all(part.name == name for name, part in cfg.benchmark.parts.items())


def test_every_task_and_every_part_is_a_benchmark_by_itself(compose_config):
    assert set(options("task")) <= {*options("benchmark"), *SINGLE}
    for name in options("benchmark"):
        group = compose_config(f"benchmark={name}", name="eval").benchmark.parts
        for part in set(group) - set(options("benchmark")):  # rlla is both, and its file is what it is
            assert compose_config(f"benchmark={part}", name="eval").benchmark.parts == {part: group[part]}


def test_a_task_and_its_keys_are_typed_for_eval_as_for_train(compose_config):
    words = ["eval.py", "task=science", "seed=1", "task.domain=physics", "+task.other=2", "model=tiny"]
    expand_task(words)
    assert words == [
        "eval.py",
        "~benchmark",
        "+task@benchmark.parts.science=science",
        "+benchmark.name=science",
        "seed=1",
        "benchmark.parts.science.domain=physics",
        "+benchmark.parts.science.other=2",
        "model=tiny",
    ]
    words = ["task.domain=physics", "task=science"]
    expand_task(words)
    scored = compose_config(*words, name="eval").benchmark
    assert scored.parts.science == compose_config("task=science", "task.domain=physics").task
    (part,) = compose_config("benchmark=science_physics", name="eval").benchmark.parts.values()
    assert part == scored.parts.science


def test_a_model_brings_its_recipe_and_another_can_be_chosen(compose_config):
    assert compose_config().recipe.learning_rate == 5e-5
    climb = compose_config("recipe=tiny_climb").recipe
    assert (climb.responses, climb.learning_rate) == (128, 1e-5)
    assert compose_config("model=smollm2_135m").recipe.responses == 32
    assert compose_config("recipe=paper").recipe.responses == 1024
    paper = compose_config("recipe=paper")
    # Table 5 of the paper: 128 prompts x 8, mini-batch 64 prompts, learning rate 1e-6, KL 0.001.
    assert (paper.algo.prompts, paper.algo.group_size, paper.recipe.mini_batch) == (128, 8, 64 * 8)
    assert (paper.recipe.learning_rate, paper.algo.objective.kl_coef) == (1e-6, 0.001)
    for words in (["model=smollm2_135m", "recipe=tiny"], ["recipe=tiny", "model=smollm2_135m"]):
        assert compose_config(*words).recipe == compose_config().recipe


@pytest.mark.parametrize("option", options("model"))
def test_every_model_serves_training_and_scoring(compose_config, option):
    assert set(compose_config(f"model={option}").recipe) == {
        "responses",
        "mini_batch",
        "learning_rate",
        "kl_coef",
    }
    assert "recipe" not in compose_config(f"model={option}", name="eval")


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
    assert settable(OmegaConf.to_container(compose_config("output_dir=x"))) <= 97


def test_the_reference_model_is_loaded_only_when_a_term_needs_it(compose_config, tmp_path):
    for recipe, needed in (("tiny", False), ("paper", True)):
        cfg = compose_config(f"recipe={recipe}", f"output_dir={tmp_path}")
        config = read(cfg, TrainConfig)
        module = build.build_module(config, at_its_task(config))
        assert module.objective.needs_reference is needed
        module.configure_model()
        assert (module.reference is not None) is needed
