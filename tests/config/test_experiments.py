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
from omegaconf.errors import OmegaConfBaseException

from bench import paper_cost
from bench.paper_cost import H20, estimate
from pipo import build
from pipo.callbacks.pipo_options import PipoOptions
from pipo.config.models import find_model
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.records.problems import Example
from pipo.rollout.datamodule import IterationDataset
from tests.built import at_its_task
from tests.config.experiments import BASES, CONF, EXPERIMENTS, TABLES, composed
from tests.conftest import ROOT

ROWS = {
    f"{table} algo={algo} pipo={pipo}": (table, algo, pipo)
    for table, (_, _, algos) in TABLES.items()
    for algo in algos
    for pipo in ("none", "default")
}
# Without pipo=, which the rows of a pair differ in.
PAIRS = {f"{table} algo={algo}": algo for table, algo, _ in ROWS.values()}
# The files of a table differ in nothing that these tests look at, so that one row of each will do.
_LAST = {table: row for row, (table, *_) in ROWS.items()}.values()
_LAST_PAIRS = {row.rpartition(" pipo=")[0] for row in _LAST}
ONE_OF_EACH = [pytest.param(row, marks=[] if row in _LAST else pytest.mark.slow) for row in ROWS]
ONE_PAIR_OF_EACH = [
    pytest.param(pair, marks=[] if pair in _LAST_PAIRS else pytest.mark.slow) for pair in PAIRS
]
SWEEPS = {"pipo.lambda": [0, 0.05, 0.1, 0.2, 0.5, 1], "pipo.window": [2, 4, 8, 16, 32]}
LAPTOP = (
    "model=tiny",
    "rollout=local",
    "strategy=single",
    "recipe=tiny",
    "precision@strategy=float32",
    "task=arithmetic",
)
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


def test_there_is_one_file_for_every_table():
    assert {table.split()[0] for table in TABLES} == {f"experiment={name}" for name in EXPERIMENTS}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_what_its_command_says(row):
    cfg = composed(*row.split())
    table, algo, pipo = ROWS[row]
    task, model, _ = TABLES[table]
    assert (cfg.task.name, cfg.model.name, cfg.algo.name, cfg.pipo.name) == (task, model, algo, pipo)
    assert cfg.seed == 42
    # Table 5: 3 epochs of 128 prompts, PPO 24 of 1,024. DAPO's 9 count rounds of sampling, of which an
    # iteration takes about three: 3 again.
    size, epochs = (1024, 24) if algo == "ppo" else (128, 3)
    assert cfg.algo.prompts == size
    problems = PROBLEMS["science" if task.startswith("science") else task]
    assert cfg.iterations == problems // size * epochs


@pytest.mark.parametrize("row", ONE_OF_EACH)
def test_the_order_of_the_words_does_not_matter(row):
    assert resolved(*row.split()) == resolved(*reversed(row.split()))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_file_holds_choices_and_the_number_of_iterations(name):
    text = (CONF / f"experiment/{name}.yaml").read_text()
    content = yaml.safe_load(text)
    assert set(content) <= {"defaults", "iterations"}
    assert len(text.splitlines()) <= 10


@pytest.mark.parametrize("table", TABLES)
def test_an_experiment_only_selects(table):
    """The run is what its groups say: the same options without the experiment give the same configuration.

    One row of each table will do, because the files hold nothing else; it is the one that nothing asks for.
    """
    cfg = composed(*table.split())
    choices = cfg.hydra.runtime.choices
    groups = ("algo", "pipo", "model", "recipe", "task", "rollout", "strategy", "evaluation", "logger")
    parts = [f"{group}={choices[group]}" for group in (*groups, "precision@strategy")]
    numbers = [f"seed={cfg.seed}", f"iterations={cfg.iterations}", *table.split()[1:]]
    assert resolved(*table.split()) == resolved(*parts, *numbers)
    assert [choices[group] for group in ("recipe", "rollout", "strategy", "algo", "pipo")] == [
        "paper",
        "vllm_bf16",
        "fsdp_bf16",
        "grpo",
        "default",
    ]


@pytest.mark.parametrize("table", TABLES)
def test_another_strategy_or_engine_leaves_a_row_its_precision(table):
    """What a launch script or a hand types must not make 1,536 tokens in float32 of 18,432 in bfloat16."""
    other = ("model=huggingface", "model.path=x")
    for words in (("strategy=fsdp",), ("strategy=ddp", "rollout=vllm"), other):
        cfg = composed(*table.split(), *words)
        assert (cfg.strategy.compute_dtype, cfg.strategy.tokens_per_micro_batch) == ("bfloat16", 18432)
        assert cfg.rollout.engine.config.dtype == "bfloat16"


@pytest.mark.parametrize("model", sorted({model for _, model, _ in TABLES.values()}))
def test_the_papers_models_bring_their_precision(model):
    cfg = composed(f"model={model}", "strategy=fsdp", "rollout=vllm")
    assert (cfg.strategy.compute_dtype, cfg.strategy.tokens_per_micro_batch) == ("bfloat16", 18432)
    assert cfg.rollout.engine.config.dtype == "bfloat16"


def test_small_models_compute_in_float32_unless_told_otherwise():
    cfg = composed("rollout=vllm", "strategy=fsdp")
    assert (cfg.strategy.compute_dtype, cfg.strategy.tokens_per_micro_batch) == (None, 1536)
    assert cfg.rollout.engine.config.dtype == "float32"
    cfg = composed("rollout=vllm", "strategy=fsdp_bf16")
    assert (cfg.strategy.compute_dtype, cfg.strategy.tokens_per_micro_batch) == ("bfloat16", 18432)
    assert cfg.rollout.engine.config.dtype == "bfloat16"
    assert composed("model=qwen3_8b", "precision@strategy=float32").strategy.compute_dtype is None


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_differs_in_the_pipo_group_alone(pair):
    base, pipo = (resolved(*pair.split(), f"pipo={option}") for option in ("none", "default"))
    assert base.pop("pipo") != pipo.pop("pipo")
    assert base == pipo


@pytest.mark.parametrize("algo", sorted(path.stem for path in (CONF / "algo").glob("*.yaml")))
def test_an_algorithm_without_a_row_has_its_iterations_too(algo):
    # Every problem is answered 24 times, in groups of eight or, by PPO and its like, one by one.
    cfg = composed("experiment=math_4b", f"algo={algo}")
    assert cfg.algo.name == algo
    alone = algo in ("ppo", "reinforce_plus_plus", "spo")
    assert cfg.iterations == (24 * (7500 // 1024) if alone else 3 * (7500 // 128))


@pytest.mark.parametrize(
    ("words", "iterations"),
    [
        (["iterations=5"], 5),
        (["iterations=5", "algo=ppo"], 5),
        (["algo.group_size=16"], 175),  # an epoch and a half of 7500 // 64 = 117
        (["recipe.responses=2048"], 3 * (7500 // 256)),
    ],
)
def test_iterations_follow_the_sizes_unless_they_are_set(words, iterations):
    assert composed("experiment=math_4b", *words).iterations == iterations


def test_less_than_an_iteration_is_refused_by_name():
    cfg = composed("experiment=math_4b", "recipe.responses=80000")
    with pytest.raises(OmegaConfBaseException, match=r"iterations: .* less than one of 10000 prompts x 8"):
        cfg.iterations  # noqa: B018  it is resolved when it is read


@pytest.mark.parametrize("row", ROWS)
def test_the_program_accepts_a_row(row, monkeypatch):
    """Everything is built that train.py builds before it reads the model's weights or a problem."""
    installed = SimpleNamespace(util=SimpleNamespace(find_spec=lambda package: package))
    monkeypatch.setattr("pipo.rollout.vllm.importlib", installed)  # as if vLLM were there
    cfg = composed(*row.split())
    _, algo, pipo = ROWS[row]
    config = read(cfg, TrainConfig)
    assert find_model(config.model).path.startswith("Qwen/Qwen3-")
    setup = at_its_task(config, find_model(read(composed(), TrainConfig).model))  # whose tokenizer is here
    try:
        module = build.build_module(config, setup)
        assert (module.objective.critic is not None) is (algo == "ppo")
        assert config.evaluation.plan().ks == (1, 8)
        engine = config.rollout.engine.build()
        assert engine.keywords["config"].dtype == "bfloat16"
        assert isinstance(config.pipo, PipoOptions) == (pipo == "default")
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
        shuffle=config.shuffle,
        repeat_after=None,
    )
    data.share_between(7, 8)
    assert len(data[config.iterations - 1].first) == config.algo.prompts // 8
    assert cfg.recipe.mini_batch % (8 * cfg.algo.group_size) == 0


@pytest.mark.parametrize("pair", ONE_PAIR_OF_EACH)
def test_the_command_line_wins(pair):
    # What is left of the experiment is its algorithm, with the loop. Arithmetic has no domains.
    words = [word for word in pair.split() if not word.startswith("task.")]
    same = resolved(f"algo={PAIRS[pair]}", "pipo=default", "iterations=2", "seed=6")
    assert resolved(*words, *LAPTOP, "iterations=2", "seed=6") == same


@pytest.mark.parametrize("group", ["algo", "pipo", "model", "recipe", "rollout", "strategy", "task"])
def test_an_option_named_before_or_after_the_experiment_wins(group):
    options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for option in (options[0], options[-1]):  # whether it wins is a matter of the group
        words = [f"{group}={option}", "experiment=math_4b"]
        for cfg in (composed(*words), composed(*reversed(words))):
            assert cfg.hydra.runtime.choices[group] == option


def test_single_keys_win_too():
    cfg = composed("experiment=math_4b", "pipo.lambda=0.5", "pipo.window=16", "algo=dapo")
    assert (cfg.pipo["lambda"], cfg.pipo.window, cfg.algo.name) == (0.5, 16, "dapo")
    assert cfg.algo.objective.clip_high == 0.28  # the option's own, none left over from the experiment


def test_the_papers_numbers():
    """Sections 3 and 4 and Table 5 of the paper."""
    cfg = composed("experiment=math_4b", "algo=grpo", "pipo=default")
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
    cfg = composed("experiment=math_8b", f"algo={algo}")
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
    form = composed("experiment=science", "task.domain=physics", "algo=sdpo").algo.objective.distillation.form
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


@pytest.mark.parametrize("table", TABLES)
def test_a_sampler_in_bfloat16_is_corrected_for(table):
    """Its log-probabilities are some hundredths off, which passes for a move of the policy otherwise."""
    for words in ((), ("rollout=vllm",)):
        cfg = composed(*table.split(), *words)
        assert (cfg.rollout.importance_correction, cfg.rollout.importance_cap) == ("token", 2.0)
    assert (
        composed(*table.split(), "rollout.importance_correction=none").rollout.importance_correction == "none"
    )
    assert composed("rollout=vllm").rollout.importance_correction == "none"


def test_the_algorithm_says_which_importance_correction_unless_the_command_line_does(compose_config):
    assert compose_config("algo=sdpo").rollout.importance_correction == "none"
    assert compose_config("algo=sdpo").algo.objective.distillation.ratio_cap is None
    chosen = compose_config("algo=sdpo_official", "rollout.importance_correction=sequence")
    assert chosen.rollout.importance_correction == "sequence"
    assert compose_config(name="eval").rollout.importance_correction == "none"


def documented() -> dict[str, tuple[int, int]]:
    """Iterations and GPU hours of every row in docs/reproduce.md, by what is typed."""
    page = (ROOT / "docs/reproduce.md").read_text()
    rows = re.findall(r"\| `([^`]+)` \| ([\d,]+) \| ([\d,]+) \|", page)
    assert len({row for row, *_ in rows}) == len(rows)
    return {row: (int(n.replace(",", "")), int(hours.replace(",", ""))) for row, n, hours in rows}


def test_every_row_is_documented_and_the_other_way_round():
    sweeps = [row for row in documented() if row.startswith("-m ")]
    assert set(documented()) - set(sweeps) == set(ROWS)
    assert [row.split()[-1].partition("=")[0] for row in sweeps] == list(SWEEPS)


@pytest.mark.parametrize("row", ROWS)
def test_the_documented_cost_is_the_estimate(row):
    cfg = composed(*row.split())
    assert documented()[row] == (cfg.iterations, round(estimate(cfg, **H20).gpu_hours))


def ablation(key: str) -> str:
    """The command of docs/reproduce.md that sweeps over a key, without the program."""
    (row,) = [row for row in documented() if f" {key}=" in row]
    return row


@pytest.mark.parametrize("key", SWEEPS)
def test_an_ablation_sweeps_over_the_listed_values_and_costs_what_its_runs_do(key):
    flag, *fixed, swept = ablation(key).split()
    assert flag == "-m"
    assert fixed == ["experiment=math_4b", "algo=grpo", "pipo=default"]
    override = OverridesParser.create().parse_override(swept)
    assert override.key_or_group == key
    values = list(override.sweep_iterator())
    assert [float(value) for value in values] == SWEEPS[key]
    runs = [composed(*fixed, f"{key}={value}") for value in values]
    iterations, hours = documented()[ablation(key)]
    assert iterations == sum(cfg.iterations for cfg in runs)
    assert hours == round(sum(estimate(cfg, **H20).gpu_hours for cfg in runs))


def test_the_estimate_prints_these_rows():
    assert paper_cost.rows() == list(ROWS)


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


@pytest.mark.slow
def test_a_row_trains_on_a_laptop(tmp_path):
    quick = ["iterations=2", "evaluation.problems=4", "evaluation.samples=1", "evaluation.ks=[1]"]
    command = [sys.executable, str(ROOT / "train.py"), "experiment=math_4b", "algo=dapo", *LAPTOP, *quick]
    subprocess.run([*command, f"output_dir={tmp_path}/run"], check=True, capture_output=True, cwd=tmp_path)
    saved = OmegaConf.load(tmp_path / "run/config.yaml")
    assert (saved.algo.name, saved.pipo.name, saved.seed) == ("dapo", "default", 42)
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_an_ablation_runs_as_a_sweep(tmp_path):
    quick = ["iterations=1", "evaluation.problems=4", "evaluation.samples=1", "evaluation.ks=[1]"]
    command = [sys.executable, str(ROOT / "train.py"), *ablation("pipo.window").split(), *LAPTOP, *quick]
    subprocess.run([*command, "hydra.sweep.dir=sweep"], check=True, capture_output=True, cwd=tmp_path)
    windows = [OmegaConf.load(file).pipo.window for file in sorted(tmp_path.glob("sweep/*/config.yaml"))]
    assert windows == [2, 4, 8, 16, 32]
