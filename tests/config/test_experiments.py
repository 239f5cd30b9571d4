"""The rows of the paper's tables: they select, come in pairs, and hold the published numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bench.paper_cost import H20, estimate
from pipo import build
from pipo.callbacks.pipo_options import PipoOptions
from pipo.config.models import find_model
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.records.problems import Example
from pipo.rollout.datamodule import IterationDataset
from tests.built import at_its_task
from tests.config.experiments import CONF, EXPERIMENTS, composed
from tests.conftest import ROOT

SWEEPS = {"ablation_lambda": "pipo.lambda", "ablation_window": "pipo.window"}
ROWS = [name for name in EXPERIMENTS if name not in SWEEPS]
PAIRS = [name for name in ROWS if not name.endswith("_pipo")]
# What holds for these holds for the other half, too: the test of pairs says so.
LOOPS = [name for name in EXPERIMENTS if name not in PAIRS]
LAPTOP = ("model=tiny", "rollout=local", "strategy=single", "recipe=tiny", "task=arithmetic")

BASES = ("ppo", "grpo", "gspo", "dapo")
# The paper's tables: what is trained on, the model, the base algorithms. Which model code and tool use had is
# that of the authors' scripts, see docs/reproduce.md.
TABLES = {
    "math_4b": ("math", "qwen3_4b_base", BASES),
    "math_8b": ("math", "qwen3_8b_base", BASES),
    "code": ("code", "qwen3_4b_base", BASES),
    "tool_use": ("tool_use", "qwen3_4b_base", BASES),
    **{
        f"science_{domain}": (f"science_{domain}", "qwen3_8b", ("grpo", "sdpo"))
        for domain in ("biology", "chemistry", "material", "physics")
    },
}
# Training problems as published; of the science domains 450 + 1,890 + 840 + 720 can be trained on.
PROBLEMS = {"math": 7500, "code": 25443, "tool_use": 3920, "science": 3900}


def resolved(*overrides: str) -> dict[str, Any]:
    """The composed configuration without Hydra's own part."""
    cfg = composed(*overrides).copy()
    OmegaConf.set_readonly(cfg, False)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def table_of(name: str) -> str:
    (table,) = [table for table in TABLES if name.startswith(f"{table}_")]
    return table


def test_there_is_one_file_for_every_row():
    rows = [f"{table}_{algo}" for table, (_, _, algos) in TABLES.items() for algo in algos]
    assert sorted([*rows, *(f"{row}_pipo" for row in rows)]) == ROWS
    assert set(EXPERIMENTS) - set(ROWS) == set(SWEEPS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_its_name_says(name):
    cfg = composed(f"experiment={name}")
    task, model, _ = TABLES[table_of(name)]
    algo = name.removeprefix(f"{table_of(name)}_").removesuffix("_pipo")
    assert (cfg.task.name, cfg.model.name, cfg.algo.name) == (task, model, algo)
    assert cfg.pipo.name == ("default" if name.endswith("_pipo") else "none")
    assert cfg.seed == 42
    # Table 5: 3 epochs of 128 prompts, PPO 24 of 1,024. DAPO's 9 count rounds of sampling, of which an
    # iteration takes about three: 3 again.
    size, epochs = (1024, 24) if algo == "ppo" else (128, 3)
    assert cfg.algo.prompts == size
    problems = PROBLEMS["science" if task.startswith("science") else task]
    assert cfg.iterations == problems // size * epochs


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_file_holds_choices_and_the_number_of_iterations(name):
    text = (CONF / f"experiment/{name}.yaml").read_text()
    assert set(yaml.safe_load(text)) <= {"defaults", "iterations", *(["hydra"] if name in SWEEPS else [])}
    assert len(text.splitlines()) <= 15


@pytest.mark.parametrize("name", [f"{table}_grpo_pipo" for table in TABLES])
def test_an_experiment_only_selects(name):
    """The run is what its groups say: the same options without the experiment give the same configuration.

    One row of each table will do, because the files hold nothing else.
    """
    cfg = composed(f"experiment={name}")
    choices = cfg.hydra.runtime.choices
    groups = ("algo", "pipo", "model", "recipe", "task", "rollout", "strategy", "evaluation", "logger")
    parts = [f"{group}={choices[group]}" for group in groups]
    numbers = [f"seed={cfg.seed}", f"iterations={cfg.iterations}"]
    assert resolved(f"experiment={name}") == resolved(*parts, *numbers)
    assert [choices[group] for group in ("recipe", "rollout", "strategy")] == [
        "paper",
        "vllm_bf16",
        "fsdp_bf16",
    ]


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_differs_in_the_pipo_group_alone(name):
    base, pipo = resolved(f"experiment={name}"), resolved(f"experiment={name}_pipo")
    for key in ("pipo", "run_name", "run_tags"):
        assert base.pop(key) != pipo.pop(key)
    assert base == pipo


@pytest.mark.parametrize("name", ROWS)
def test_the_program_accepts_a_row(name, monkeypatch):
    """Everything is built that train.py builds before it reads the model's weights or a problem."""
    installed = SimpleNamespace(util=SimpleNamespace(find_spec=lambda package: package))
    monkeypatch.setattr("pipo.rollout.vllm.importlib", installed)  # as if vLLM were there
    cfg = composed(f"experiment={name}")
    config = read(cfg, TrainConfig)
    assert find_model(config.model).path.startswith("Qwen/Qwen3-")
    setup = at_its_task(config, find_model(read(composed(), TrainConfig).model))  # whose tokenizer is here
    try:
        module = build.build_module(config, setup)
        assert module.objective.critic is not None if "ppo" in name else module.objective.critic is None
        assert config.evaluation.plan().ks == (1, 8)
        engine = config.rollout.engine.build()
        assert engine.keywords["config"].dtype == "bfloat16"
        assert isinstance(config.pipo, PipoOptions) == name.endswith("_pipo")
        build.build_trainer(config, [], [], module.objective)
    finally:
        setup.task.close()
    # Eight GPUs share prompts and mini-batches evenly.
    example = Example(uid="", question="", answer="")
    problems = PROBLEMS.get(cfg.task.name, 450)  # biology, the smallest domain
    data = IterationDataset(
        [example] * problems,
        [(0,)] * problems,
        prompts_per_iteration=config.algo.prompts,
        iterations=config.iterations,
        seed=config.seed,
    )
    data.share_between(7, 8)
    assert len(data[config.iterations - 1].first) == config.algo.prompts // 8
    assert cfg.recipe.mini_batch % (8 * cfg.algo.group_size) == 0


@pytest.mark.parametrize("name", LOOPS)
def test_the_command_line_wins(name):
    # What is left of the experiment is its algorithm, with or without the loop.
    choices = composed(f"experiment={name}").hydra.runtime.choices
    same = resolved(f"algo={choices.algo}", f"pipo={choices.pipo}", "iterations=2", "seed=6")
    assert resolved(f"experiment={name}", *LAPTOP, "iterations=2", "seed=6") == same


def test_single_keys_win_too():
    cfg = composed("experiment=math_4b_grpo_pipo", "pipo.lambda=0.5", "pipo.window=16", "algo=dapo")
    assert (cfg.pipo["lambda"], cfg.pipo.window, cfg.algo.name) == (0.5, 16, "dapo")
    assert cfg.algo.objective.clip_high == 0.28  # the option's own, none left over from the experiment


@pytest.mark.parametrize(
    ("name", "values"),
    [("ablation_lambda", [0, 0.05, 0.1, 0.2, 0.5, 1]), ("ablation_window", [2, 4, 8, 16, 32])],
)
def test_an_ablation_sweeps_over_the_listed_values(name, values):
    cfg = composed(f"experiment={name}")
    assert cfg.hydra.mode.name == "MULTIRUN"
    ((key, swept),) = cfg.hydra.sweeper.params.items()
    assert key == SWEEPS[name]
    override = OverridesParser.create().parse_override(f"{key}={swept}")
    assert [float(value) for value in override.sweep_iterator()] == values
    assert resolved(f"experiment={name}") == resolved("experiment=math_4b_grpo_pipo")


def test_the_papers_numbers():
    """Sections 3 and 4 and Table 5 of the paper."""
    cfg = composed("experiment=math_4b_grpo_pipo")
    pipo = cfg.pipo
    assert (pipo["lambda"], pipo.window, pipo.lr_scale, pipo.kl_coef) == (0.1, 8, 1.0, 0.0)
    assert (pipo.mini_batch, pipo.max_progress, pipo.feedback) == (None, None, "progress")
    optimizer = cfg.algo.optimizer
    assert (cfg.recipe.learning_rate, optimizer.beta1, optimizer.beta2) == (1e-6, 0.9, 0.999)
    assert (optimizer.weight_decay, optimizer.max_grad_norm, optimizer.warmup_iterations) == (0.01, 1.0, 0)
    assert (cfg.rollout.temperature, cfg.rollout.top_p, cfg.rollout.top_k) == (1.0, 1.0, 0)
    assert cfg.task.max_response_tokens == 4096
    assert cfg.strategy.tokens_per_micro_batch == 4 * (512 + 4096)


@pytest.mark.parametrize("model", sorted({model for _, model, _ in TABLES.values()}))
def test_the_papers_models_bring_the_papers_recipe(model):
    assert composed(f"model={model}").recipe == composed("recipe=paper").recipe


# clip low, clip high, dual clip, aggregation, KL in the loss, group size, responses per optimiser step
PUBLISHED = {
    "ppo": (0.2, 0.2, 3.0, "token-mean", 0.0, 1, 512),
    "grpo": (0.2, 0.2, 3.0, "token-mean", 0.001, 8, 64 * 8),
    "gspo": (3e-4, 4e-4, None, "seq-mean-token-mean", 0.001, 8, 64 * 8),
    "dapo": (0.2, 0.28, 10.0, "token-mean", 0.001, 8, 64 * 8),
}


@pytest.mark.parametrize("algo", BASES)
def test_the_papers_numbers_of_an_algorithm(algo):
    cfg = composed(f"experiment=math_8b_{algo}")
    loss = cfg.algo.objective
    assert PUBLISHED[algo] == (
        loss.clip_low,
        loss.clip_high,
        loss.dual_clip,
        loss.aggregation,
        loss.kl_coef,
        cfg.algo.group_size,
        cfg.recipe.mini_batch,
    )
    assert cfg.algo.dynamic_sampling_rounds == (10 if algo == "dapo" else 0)
    assert cfg.algo.reward_terms == {}
    if algo == "ppo":
        assert (loss.kl_reward_coef, loss.gamma, loss.gae_lambda) == (0.001, 1.0, 1.0)
        assert loss.critic.learning_rate_scale * cfg.recipe.learning_rate == pytest.approx(1e-5)
        assert loss.critic.value_clip == 0.5


def test_sdpo_is_the_papers_form():
    form = composed("experiment=science_physics_sdpo").algo.objective.distillation.form
    assert (form.kind, form.top_k) == ("reverse-kl", None)


def test_sdpo_official_is_the_released_setting():
    """lasgroup/SDPO: sdpo.yaml, actor.yaml and the scripts of its science runs."""
    cfg = composed("algo=sdpo_official", "recipe=sdpo_official")
    loss = cfg.algo.objective.distillation
    assert (loss.form.kind, loss.form.alpha, loss.form.top_k) == ("jensen-shannon", 0.5, 100)
    assert (loss.teacher_average, loss.success_threshold, loss.ratio_cap) == (0.05, 0.5, 2.0)
    assert (loss.drop_thoughts, loss.feedback_beside_solution) == (True, False)
    assert (cfg.rollout.importance_correction, cfg.rollout.importance_cap) == ("token", 2.0)
    assert (cfg.algo.prompts, cfg.algo.group_size, cfg.recipe.mini_batch) == (32, 8, 256)
    assert cfg.recipe.learning_rate == 1e-5


def test_the_algorithm_says_which_importance_correction_unless_the_command_line_does(compose_config):
    assert compose_config("algo=sdpo").rollout.importance_correction == "none"
    assert compose_config("algo=sdpo").algo.objective.distillation.ratio_cap is None
    chosen = compose_config("algo=sdpo_official", "rollout.importance_correction=sequence")
    assert chosen.rollout.importance_correction == "sequence"
    assert compose_config(name="eval").rollout.importance_correction == "none"


def documented() -> dict[str, tuple[int, int]]:
    """Iterations and GPU hours of every row in docs/reproduce.md."""
    page = (ROOT / "docs/reproduce.md").read_text()
    rows = re.findall(r"`experiment=(\w+)` \| ([\d,]+) \| ([\d,]+) \|", page)
    assert len({name for name, *_ in rows}) == len(rows)
    return {name: (int(n.replace(",", "")), int(hours.replace(",", ""))) for name, n, hours in rows}


def test_every_experiment_is_documented_and_the_other_way_round():
    page = (ROOT / "docs/reproduce.md").read_text()
    named = {name for found in re.findall(r"experiment=([\w,]+)", page) for name in found.split(",")}
    assert named == set(EXPERIMENTS)
    assert set(documented()) == set(EXPERIMENTS)


@pytest.mark.parametrize("name", ROWS)
def test_the_documented_cost_is_the_estimate(name):
    cfg = composed(f"experiment={name}")
    assert documented()[name] == (cfg.iterations, round(estimate(cfg, **H20).gpu_hours))


@pytest.mark.parametrize(("name", "runs"), [("ablation_lambda", 6), ("ablation_window", 5)])
def test_the_documented_cost_of_a_sweep_is_that_of_its_runs(name, runs):
    iterations, hours = documented()[name]
    cfg = composed(f"experiment={name}")
    assert iterations == runs * cfg.iterations
    assert hours == round(runs * estimate(cfg, **H20).gpu_hours)


def commands(program: str) -> list[list[str]]:
    page = (ROOT / "docs/reproduce.md").read_text()
    return [line.split("#")[0].split() for line in re.findall(rf"^python {program}\.py (.*)$", page, re.M)]


@pytest.mark.parametrize(
    ("program", "arguments"),
    [(p, a) for p in ("train", "eval") for a in commands(p) if a[0] not in ("-m", "compare")],
    ids=" ".join,
)
def test_a_documented_command_composes(compose_config, program, arguments):
    overrides = [a.replace("RUN", "tiny") for a in arguments if not a.startswith(("hydra/", "hydra."))]
    overrides = [a.replace("FOLDER", "somewhere") for a in overrides]
    cfg = compose_config(*overrides, "output_dir=x", name=program)
    OmegaConf.to_container(cfg, resolve=True)


def test_a_row_trains_on_a_laptop(tmp_path):
    quick = ["iterations=2", "evaluation.problems=4", "evaluation.samples=1", "evaluation.ks=[1]"]
    command = [sys.executable, str(ROOT / "train.py"), "experiment=math_4b_dapo_pipo", *LAPTOP, *quick]
    subprocess.run([*command, f"output_dir={tmp_path}/run"], check=True, capture_output=True, cwd=tmp_path)
    saved = OmegaConf.load(tmp_path / "run/config.yaml")
    assert (saved.algo.name, saved.pipo.name, saved.seed) == ("dapo", "default", 42)
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_an_ablation_runs_as_a_sweep(tmp_path):
    quick = ["iterations=1", "evaluation.problems=4", "evaluation.samples=1", "evaluation.ks=[1]"]
    command = [sys.executable, str(ROOT / "train.py"), "experiment=ablation_window", *LAPTOP, *quick]
    subprocess.run([*command, "hydra.sweep.dir=sweep"], check=True, capture_output=True, cwd=tmp_path)
    windows = [OmegaConf.load(file).pipo.window for file in sorted(tmp_path.glob("sweep/*/config.yaml"))]
    assert windows == [2, 4, 8, 16, 32]
