"""The typed configuration: what becomes of closed and open nodes, and what is said about wrong ones."""

from __future__ import annotations

import enum
import functools
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipo.callbacks.pipo_options import NoPipo, PipoOptions
from pipo.config.models import find_model
from pipo.config.open_nodes import Open
from pipo.config.reading import composed, read
from pipo.config.tree import EvalConfig, ModelConfig, TrainConfig
from pipo.errors import ConfigError
from pipo.modules.objectives.grpo import GRPO
from pipo.records.options import Count, Options, Several
from tests.conftest import ROOT


class Size(Options):
    """A closed node."""

    rows: Count
    levels: Several[int] = ()


@dataclass
class Thing:
    """What an open node of these tests builds."""

    size: Size
    inner: Thing | None = None
    rate: float = 0.5
    names: tuple[str, ...] = ()


class Forwards(dict):
    """Takes whatever its parent takes."""

    def __init__(self, *, first: int, **others: object) -> None:
        super().__init__(first=first, **others)


HERE = "tests.config.test_reading"


def node(written: dict, *, whole: dict | None = None, key: str = "my.thing") -> Open:
    """An open node as reading makes it."""
    cfg = OmegaConf.create({**(whole or {}), "my": {"thing": written}})
    return Open(key, OmegaConf.to_container(cfg.my.thing, resolve=True), written)  # type: ignore[arg-type]


def test_every_key_of_the_default_run_has_its_type(compose_config):
    config = read(compose_config("output_dir=x"), TrainConfig)
    assert isinstance(config.pipo, PipoOptions)
    # conf/pipo/default.yaml, conf/recipe/tiny.yaml, conf/evaluation/default.yaml
    assert (config.pipo.negative_scale, config.pipo.window) == (0.1, 8)
    assert (config.recipe.mini_batch, config.recipe.learning_rate) == (128, 5e-5)
    assert config.evaluation.ks == (1, 8)
    assert isinstance(config.algo.objective.build(), GRPO)
    assert isinstance(read(compose_config("pipo=none", "output_dir=x"), TrainConfig).pipo, NoPipo)


def test_an_evaluation_has_a_task_for_each_part(compose_config):
    config = read(compose_config("benchmark=math", "output_dir=x", name="eval"), EvalConfig)
    assert len(config.benchmark.parts) > 1
    assert all(part.source.target.startswith("pipo.tasks.") for part in config.benchmark.parts.values())


def test_something_that_a_benchmark_lacks_needs_its_name_weight_and_reason(compose_config):
    missing = "benchmark.not_covered=[{name: live, weight: 0.3}]"
    cfg = compose_config("benchmark=tools", "output_dir=x", missing, name="eval")
    with pytest.raises(ConfigError, match=r"^benchmark\.not_covered\.0: missing why$"):
        read(cfg, EvalConfig)


def test_what_is_recorded_has_every_reference_resolved(compose_config):
    record = composed(compose_config("output_dir=x", "recipe.kl_coef=3e-5"))
    assert record["algo"]["objective"]["kl_coef"] == 3e-5
    assert "${" not in str(record)


def test_reading_takes_neither_torch_nor_lightning():
    """They take seconds, and a mistyped key should not."""
    code = (
        "import sys, pipo.config.command_line, pipo.config.tree;"
        "print([name for name in ('torch', 'lightning', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_closed_nodes_inside_an_open_one_are_built_too():
    made = node({"_target_": f"{HERE}.Thing", "size": {"rows": 2, "levels": [1, 2]}, "names": ["a"]}).build()
    assert made == Thing(size=Size(rows=2, levels=(1, 2)), names=("a",))


def test_open_nodes_inside_an_open_one_are_built_too():
    inner = {"_target_": f"{HERE}.Thing", "size": {"rows": 1}}
    made = node({"_target_": f"{HERE}.Thing", "size": {"rows": 2}, "inner": inner}).build(Thing)
    assert made.inner == Thing(size=Size(rows=1))


def test_a_partial_node_takes_the_rest_from_code():
    later = node({"_target_": f"{HERE}.Thing", "_partial_": True, "rate": 1}).build()
    assert isinstance(later, functools.partial)
    assert later(size=Size(rows=3)) == Thing(size=Size(rows=3), rate=1.0)


def test_what_a_parent_takes_goes_on_to_it():
    made = node({"_target_": f"{HERE}.Forwards", "first": 1, "second": "x"}).build(dict)
    assert made == {"first": 1, "second": "x"}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"size": {"rows": 0}}, "my.thing.size.rows: expected a number >= 1, got 0"),
        ({"size": {"rows": 2.5}}, "my.thing.size.rows: expected int, got 2.5"),
        ({"size": {"rows": True}}, "my.thing.size.rows: expected int, got True"),
        ({"size": {"row": 1}}, "my.thing.size.row: unknown key; did you mean my.thing.size.rows?"),
        ({"size": {}}, "my.thing.size: missing rows"),
        ({"size": {"rows": 1, "levels": [1, "x"]}}, "my.thing.size.levels.1: expected int, got 'x'"),
        ({"size": {"rows": 1}, "rate": "fast"}, "my.thing.rate: expected float, got 'fast'"),
        ({"size": {"rows": 1}, "rate": "${speed}"}, "speed: expected float, got 'slow'"),
        ({"size": {"rows": 1}, "raet": 1}, f"my.thing.raet: unknown key; did you mean my.thing.rate? {HERE}"),
        ({"rate": 1}, f"my.thing: missing size (required by {HERE}.Thing)"),
        (
            {"size": {"rows": 1}, "inner": {"_target_": f"{HERE}.Thing", "size": {"rows": -1}}},
            "my.thing.inner.size.rows: expected a number >= 1, got -1",
        ),
    ],
)
def test_what_is_wrong_in_an_open_node_is_named(written, said):
    thing = node({"_target_": f"{HERE}.Thing", **written}, whole={"speed": "slow"})
    with pytest.raises(ConfigError) as caught:
        thing.build()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Many:
    """What YAML cannot write as it is, and what no type checker could read."""

    where: Path | None = None
    colour: Colour | None = None
    every: timedelta | None = None
    some: set[int] | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    odd: "an int" = 0  # noqa: F722


def test_what_yaml_cannot_write_is_made_of_what_it_can():
    written = {"where": "/tmp", "colour": "red", "every": 60, "some": [1, 1], "pairs": [[1, 2]], "odd": "x"}
    made = node({"_target_": f"{HERE}.Many", **written}).build(Many)
    assert made.where == Path("/tmp")
    assert (made.colour, made.every, made.some) == (Colour.RED, timedelta(seconds=60), {1})
    assert made.pairs == ((1, 2),)


def test_open_nodes_in_lists_and_mappings_are_built():
    inner = {"_target_": f"{HERE}.Thing", "size": {"rows": 1}}
    made = node({"_target_": f"{HERE}.Forwards", "first": 1, "all": [inner], "named": {"a": inner}}).build()
    assert made == {"first": 1, "all": [Thing(size=Size(rows=1))], "named": {"a": Thing(size=Size(rows=1))}}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"_partial_": "yes"}, "my.thing._partial_: expected bool, got 'yes'"),
        ({"_args_": [1]}, "my.thing._args_: unknown key"),
        ({1: 2}, "my.thing.1: an argument has a name, got the number 1"),
    ],
)
def test_what_is_no_argument_is_refused_by_a_class_that_takes_everything_too(written, said):
    thing = Open("my.thing", {"_target_": f"{HERE}.Forwards", "first": 1, **written}, written)
    with pytest.raises(ConfigError) as caught:
        thing.build()
    assert str(caught.value).startswith(said)


def test_a_stray_key_of_a_pydantic_model_is_refused():
    with pytest.raises(ConfigError, match=r"^my\.thing\.row: unknown key; did you mean my\.thing\.rows\?"):
        node({"_target_": f"{HERE}.Size", "row": 1}).build()


@pytest.mark.parametrize("reference", ["${mine.a}", "${mine[a]}"])
def test_a_key_of_ones_own_may_be_referred_to_in_every_spelling(compose_config, reference):
    cfg = compose_config("+mine.a=5", f"iterations={reference}", "output_dir=x")
    assert read(cfg, TrainConfig).iterations == 5


@pytest.mark.parametrize("text", ["a: [", "- 1", "model: x", ""])
def test_a_checkpoint_whose_run_names_no_model_is_one_line(tmp_path, text):
    checkpoint = tmp_path / "checkpoints/iteration_000001.ckpt"
    checkpoint.mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(text)
    model = ModelConfig(name="x", path=str(checkpoint), dtype="float32", gradient_checkpointing=False)
    with pytest.raises(ConfigError, match=r"^model\.path=.*config\.yaml (cannot be read|names no model)"):
        find_model(model)


def test_what_a_runs_chat_template_was_told_holds_for_its_model(compose_config, tmp_path):
    words = ["model.chat_template_kwargs={enable_thinking: false, style: 1}", "iterations=1"]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(compose_config(*words, f"output_dir={tmp_path}")))
    checkpoint = tmp_path / "checkpoints/iteration_000001.ckpt"
    for folder in (checkpoint, tmp_path / "model"):
        folder.mkdir(parents=True)
    for place in (tmp_path, checkpoint):

        def told(*more, place=place):
            cfg = compose_config(
                "model=huggingface", f"model.path={place}", *more, "output_dir=x", name="eval"
            )
            return find_model(read(cfg, EvalConfig).model).chat_template_kwargs

        assert told() == {"enable_thinking": False, "style": 1}
        again = told("model.chat_template_kwargs={enable_thinking: true}")
        assert again == {"enable_thinking": True, "style": 1}


def test_another_kind_of_object_is_refused():
    with pytest.raises(ConfigError, match=r"my\.thing\._target_: .*Thing makes no GRPO"):
        node({"_target_": f"{HERE}.Thing", "size": {"rows": 1}}).build(GRPO)


def test_a_class_of_somebody_else_that_takes_no_such_thing_is_one_line():
    with pytest.raises(ConfigError, match=r"^my\.thing: zipfile\.ZipFile cannot be made \(.*nowhere.*\)$"):
        node({"_target_": "zipfile.ZipFile", "file": "/nowhere/at.zip"}).build()


def test_a_model_that_is_made_may_be_a_path(compose_config, tmp_path, monkeypatch):
    """The function behind model=smollm2_135m returns the folder that it finds in the cache."""
    folder = tmp_path / "smollm2-135m-instruct-float32"
    folder.mkdir()
    monkeypatch.setenv("PIPO_CACHE", str(tmp_path))
    assert find_model(read(compose_config("model=smollm2_135m"), TrainConfig).model).path == str(folder)
    with pytest.raises(
        ConfigError, match=r"^model\.path\._target_: builtins\.dict makes no path but \{'name': 'tiny'\}$"
    ):
        find_model(read(compose_config("+model.path={_target_: builtins.dict}"), TrainConfig).model)
