"""Every mistake a user can make: one clear error before any training, naming the key, the file or the row."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import lightning.pytorch as pl
import pytest

from pipo.callbacks.ending import LIMITS
from pipo.config import trainer_options
from pipo.config.cli import exit_code
from pipo.config.reading import read
from pipo.config.tree import EvalConfig, TrainConfig
from pipo.errors import ConfigError
from pipo.home import CONF
from pipo.scoring import score
from pipo.training import train


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pipo.lambda=1.5"], r"pipo\.lambda: expected a number <= 1, got 1\.5"),
        (["pipo.lambda=-0.1"], r"pipo\.lambda: expected a number >= 0, got -0\.1"),
        (["pipo.lambda=abc"], r"pipo\.lambda: expected float, got 'abc'"),
        (["pipo.window=1"], r"pipo\.window: expected a number >= 2, got 1"),
        (["pipo.window=2.5"], r"pipo\.window: expected int, got 2\.5"),
        (["pipo.feedback=luck"], r"pipo\.feedback: expected .*progress.*constant.*random_sign.*got 'luck'"),
        (["pipo.max_progress=0"], r"pipo\.max_progress: expected a number above 0, got 0"),
        (["pipo.lr_scale=0"], r"pipo\.lr_scale: expected a number above 0, got 0"),
        (["pipo.row_fraction=0"], r"pipo\.row_fraction: expected a number above 0, got 0"),
        (["pipo.row_fraction=1.5"], r"pipo\.row_fraction: expected a number <= 1, got 1\.5"),
        (["pipo.row_fraction=nan"], r"pipo\.row_fraction: expected a number .*, got nan"),
        (["pipo.row_fraction=0.5", "pipo.kl_coef=0.1"], r"pipo\.kl_coef=0\.1 needs pipo\.row_fraction=1 and"),
        (["pipo.rows_follow_coefficient=true", "pipo.kl_coef=0.1"], r"pipo\.kl_coef=0\.1 needs pipo\.row_fr"),
        (["~pipo.window"], r"pipo\.window: missing; it is needed, so it cannot be taken out"),
        (
            ["pipo=step_control", "pipo.name=mine"],
            r"pipo\.name: expected 'none' or 'step_control', got 'mine'",
        ),
        (
            ["pipo=step_control", "pipo.step_control.slope_left=1"],
            r"slope_left: expected a number below 1, got 1",
        ),
        (["shuffle=maybe"], r"shuffle: expected bool, got 'maybe'"),
        (["pipo.mini_batch=0"], r"pipo\.mini_batch: expected a number >= 1, got 0"),
        (["algo.group_size=1"], r"algo\.group_size=1.*at least 2"),
        (["algo.group_size=7"], r"recipe\.responses=128 cannot be split.*algo\.group_size=7"),
        (["algo.objective.clip_low=1.2"], r"clip_low must lie in \[0, 1\]"),
        (["algo.objective.aggregation=mean"], r"aggregation"),
        (["+algo.objective.cliplow=0.2"], r"algo\.objective\.cliplow: unknown key.*clip_low"),
        (["~algo.objective.clip_low"], r"algo\.objective: missing clip_low"),
        (["algo.objective._target_=nowhere.Nothing"], r"algo\.objective\._target_: nowhere\.Nothing"),
        (["model.lora.rank=0"], r"model\.lora\.rank: expected a number >= 1, got 0"),
        (
            ["model.lora.rank=4", "model.lora.alpha=0"],
            r"model\.lora\.alpha: expected a number above 0",
        ),
        (["iterations=0"], r"iterations: expected a number >= 1, got 0"),
        (["iterations=many"], r"iterations: expected int, got 'many'"),
        (["seed=-1"], r"seed: expected a number >= 0, got -1"),
        (["recipe.learning_rate=0"], r"recipe\.learning_rate: expected a number above 0, got 0"),
        (["recipe.learning_rate=inf"], r"recipe\.learning_rate: expected a finite number, got inf"),
        (["pipo.lr_scale=inf"], r"pipo\.lr_scale: expected a finite number, got inf"),
        (["pipo.kl_coef=inf"], r"pipo\.kl_coef: expected a finite number, got inf"),
        (["algo.objective.advantage_eps=inf"], r"advantage_eps must be >= 0 and finite, got inf"),
        (
            ["algo=ppo", "algo.objective.critic.learning_rate_scale=inf"],
            r"critic\.learning_rate_scale: expected a finite number, got inf",
        ),
        (["~checkpoint"], r"checkpoint: missing; it is needed"),
        (["~seed"], r"seed: missing; it is needed"),
        (["recipe.learning_rate=null"], r"recipe\.learning_rate: expected float, got None"),
        (["recipe.responses=100000"], r"recipe\.responses|training problems"),
        (["rollout.top_p=0"], r"rollout\.top_p: expected a number above 0, got 0"),
        (["rollout.temperature=hot"], r"rollout\.temperature: expected float, got 'hot'"),
        (
            ["rollout.engine.config.max_rows=0"],
            r"rollout\.engine\.config\.max_rows: expected a number >= 1, got 0",
        ),
        (["rollout.temperature=0"], r"rollout\.temperature must be above 0 to train"),
        (["rollout.temperature=nan"], r"rollout\.temperature: expected a finite number, got nan"),
        (["pipo.kl_coef=0.1"], r"pipo\.kl_coef needs a reference model"),
        (["samples.every=0"], r"samples\.every"),
        (["evaluation.problems=0"], r"evaluation\.problems: expected a number >= 1, got 0"),
        (["evaluation.problems=-3"], r"evaluation\.problems: expected a number >= 1, got -3"),
        (["algo.optimizer.beta1=1.5"], r"algo\.optimizer\.beta1: expected a number below 1, got 1\.5"),
        (
            ["algo.optimizer.weight_decay=-1.0"],
            r"algo\.optimizer\.weight_decay: expected a number >= 0, got -1\.0",
        ),
        (["recipe.kl_coef=nan"], r"recipe\.kl_coef: expected a finite number, got nan"),
        (
            ["strategy.compute_dtype=fp8"],
            r"strategy\.compute_dtype: expected .float32. or .bfloat16., got .fp8.",
        ),
        (["+trainer.precision=16-mixed"], r"trainer\.precision: set model\.dtype"),
        (
            ["trainer.devices=0"],
            r"trainer\.devices: expected a number >= 1 or .auto., got 0",
        ),
        (["trainer.devices=many"], r"trainer\.devices"),
        (["trainer.devices=2"], r"2 processes need strategy=ddp .* or strategy=fsdp"),
        (["trainer.num_nodes=0"], r"trainer\.num_nodes: expected a number >= 1, got 0"),
        (["trainer.accelerator=tpu"], r"trainer\.accelerator"),
        (["trainer.strategy=deepspeed"], r"trainer\.strategy"),
        (["trainer.strategy=fsdp"], r"strategy\.sharding goes with .*strategy=fsdp"),
        (["strategy=fsdp", "strategy.sharding=null"], r"strategy\.sharding goes with"),
        (["strategy=fsdp", "strategy.sharding.reduce_dtype=fp8"], r"strategy\.sharding\.reduce_dtype"),
        (["strategy=fsdp", "+strategy.sharding.tp=2"], r"strategy\.sharding\.tp: unknown key"),
        (
            ["strategy=fsdp", "strategy.sharding.cpu_offload=true", "trainer.accelerator=cpu"],
            r"strategy\.sharding\.cpu_offload: the weights are on the CPU already",
        ),
        (["+trainer.foo=1"], r"trainer.*foo"),
        (
            ["algo=dapo", "+reward_terms=overlong", "algo.reward_terms.overlong.buffer=99"],
            r"algo\.reward_terms\.overlong: buffer must lie in \[1, max_response_tokens = 32\], got 99",
        ),
        (["+reward_terms=overlong"], r"algo\.reward_terms\.overlong\.buffer has no value"),
        (
            ["+algo.reward_terms.mine={x: 1}"],
            r"algo\.reward_terms\.mine: expected a node with _target_, got \{.x.: 1\}",
        ),
        (
            ["+algo.reward_terms.mine={_target_: pathlib.Path}"],
            r"mine\._target_: pathlib\.Path makes no RewardTerm",
        ),
        (["algo.reward_terms=3"], r"algo\.reward_terms holds further keys and cannot be 3"),
        (
            ["algo=dapo", "algo.dynamic_sampling_rounds=-1"],
            r"algo\.dynamic_sampling_rounds: expected a number >= 0, got -1",
        ),
        (["algo=ppo", "algo.dynamic_sampling_rounds=2"], r"group_size >= 2"),
        (["algo=ppo", "algo.objective.gamma=1.5"], r"gamma must lie in \[0, 1\]"),
        (["algo=sdpo", "algo.group_size=1"], r"algo\.group_size=1"),
        (["algo=sdpo", "algo.objective.kl_coef=0.1"], r"kl_coef must be 0"),
        (
            ["algo=sdpo", "algo.objective.distillation.success_threshold=5.0"],
            r"distillation\.success_threshold: expected a number <= 1, got 5\.0",
        ),
        (["algo=dr_grpo", "algo.objective.max_response_tokens=0"], r"max_response_tokens must be >= 1"),
        (["algo.objective.advantage_eps=-1.0"], r"advantage_eps must be >= 0"),
        (["algo=cispo", "algo.objective.dual_clip=3.0"], r"dual_clip must be null"),
        (["algo=gmpo", "algo.objective.aggregation=token-mean"], r"aggregation must be seq-mean-token-mean"),
        (["algo=sapo", "+algo.objective.clip_high=0.2"], r"algo\.objective\.clip_high: unknown key"),
        (["algo=dppo", "algo.objective.divergence=js"], r"algo\.objective\.divergence: .*tv"),
        (["algo=spo", "rollout.top_p=0.9"], r"rollout\.top_p, .*: spo scores earlier responses again"),
        (["algo=spo", "shuffle=false"], r"shuffle=false: spo draws the prompts itself"),
        (
            ["algo=spo", "algo.group_size=2", "algo.dynamic_sampling_rounds=3"],
            r"algo\.dynamic_sampling_rounds=3: spo draws the prompts itself",
        ),
        (["algo=ppo", "algo.objective.critic=null"], r"critic"),
        (
            ["algo=sdpo", "algo.objective.distillation.form.alpha=0.5"],
            r"distillation\.form: alpha must be null",
        ),
        (
            ["task.max_prompt_tokens=3"],
            r"no training problem is left; arithmetic/train/\d+: its prompt has \d+ ",
        ),
        (["task.max_response_tokens=0"], r"task\.max_response_tokens: expected a number >= 1, got 0"),
        (
            ["task.max_response_tokens=505"],
            r"task\.max_response_tokens=505: .*tiny reads at most 512 tokens, and the longest prompt has 8; "
            r"lower the limit, or use a model that reads more$",
        ),
        (["task.source.levels={1: -1}"], r"levels\.1 must be a finite weight"),
        (["task.source.train_problems=0"], r"train_problems must be a whole number"),
        (["evaluation.ks=[8, 1]"], r"evaluation: ks must rise"),
        (["evaluation.samples=4"], r"pass@8 needs that many samples"),
        (["checkpoint.every=0"], r"checkpoint\.every"),
        (["model=huggingface"], r"model\.path has no value"),
        (["model=huggingface", "model.path=./nowhere"], r"model\.path=\./nowhere: no such folder"),
        (["model=huggingface", "model.path=tests/data"], r"holds no model \(config\.json is missing\)"),
        (["model.dtype=float8"], r"model\.dtype: expected .float32. or .bfloat16., got .float8."),
        (["model.dtype=float16"], r"model\.dtype: expected .float32. or .bfloat16., got .float16."),
        (["model.dtype=bfloat16"], r"model\.dtype=bfloat16: .*model\.dtype=float32.*compute_dtype=bfloat16"),
        (["model.dtype=bfloat16", "strategy.compute_dtype=float32"], r"model\.dtype=bfloat16: "),
        (["+pipo.lamda=0.7"], r"pipo\.lamda: unknown key; did you mean pipo\.lambda\?"),
        (["+recipe.lr=1e-5"], r"recipe\.lr: unknown key; did you mean recipe\.learning_rate\?"),
        (["+evaluation.foo=1"], r"evaluation\.foo: unknown key; evaluation takes confidence, ks, problems"),
        (["+rollout.typical_p=0.1"], r"rollout\.typical_p: unknown key; rollout takes engine, "),
        (["+foo=1"], r"foo: unknown key; known are algo, callbacks, "),
        (["++seeed=2"], r"seeed: unknown key; did you mean seed\?"),
        (["+temperature=1.0"], r"temperature: unknown key; did you mean rollout\.temperature\?"),
        (["+strategy.trainer.devices=1"], r"strategy\.trainer: unknown key; did you mean trainer\?"),
        (["+data.batch_size=4"], r"data: unknown key; did you mean task\?"),
        (["+ckpt_path=last.ckpt"], r"ckpt_path: unknown key; did you mean resume=<run folder>\?"),
        (["+logger.tensorboard._target_=x.Y"], r"logger\.tensorboard\._target_: x\.Y cannot be used"),
        (["pipo=none", "+pipo.lambda=0.2"], r"pipo\.lambda: unknown key"),
        (["+task.path=rows.jsonl"], r"task\.path: unknown key"),
        (["+my.rate=1e-5", "+my.rat=1"], r"my: unknown key"),
        (
            ["+my.rate=1e-5", "+my.rat=1", "recipe.learning_rate=${my.rate}"],
            r"my\.rat: unknown key; .*my\.rate",
        ),
        (["curve=5"], r"curve holds further keys and cannot be 5; set curve\.every, curve\.samples"),
        (["+callbacks.mine=1"], r"callbacks\.mine: expected a node with _target_, got 1"),
        (["+algo.objective._foo_=1"], r"algo\.objective\._foo_: unknown key"),
        (["algo.objective._target_=os.system"], r"algo\.objective\._target_: os\.system cannot be used"),
        (["algo.objective._target_=math.pi"], r"_target_: math\.pi cannot be used \(Expected a callable"),
        (["algo.objective._target_=5"], r"_target_: the dotted path of a class or function is needed, got 5"),
        (["+algo.objective._partial_=true"], r"algo\.objective\._target_: .* makes no Objective"),
        (["pipo.mini_batch=1000"], r"pipo\.mini_batch=1000: an iteration has 128 responses"),
        (["probe.prompts=100000"], r"probe\.prompts=100000: arithmetic has 512 held-out problems"),
        (["algo=ppo", "algo.objective.critic.warmup_iterations=60"], r"only the critic would be trained"),
        (["data_dir=nowhere"], r"data_dir=nowhere: no such folder"),
    ],
)
def test_bad_values(compose_config, tmp_path, capsys, overrides, message):
    folder = f"output_dir={tmp_path / 'day' / 'run'}"
    code, value = exit_code(lambda: train(compose_config(*overrides, folder), []))
    said = capsys.readouterr()
    assert (code, value) == (2, None)
    assert re.search(message, said.err)
    assert said.err.count("\n") == 1
    assert len(said.err) < 400
    # Nothing was begun, so nothing is left, not even an empty folder.
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["recipe.mini_batch=256"], "recipe.mini_batch=256: an iteration has 128 responses, so it makes one"),
        (["recipe.mini_batch=48"], "the last optimiser step of an iteration is on 32 of its 128 responses"),
        (["iterations=8"], "pipo.window=8: the first comparison is in iteration 9, so iterations=8 train as"),
        (["algo.optimizer.warmup_iterations=60"], "the learning rate is not reached within iterations=60"),
        (["rollout.top_k=65"], "rollout.top_k=65: the model has 64 tokens, so it is as if it were 0"),
        (
            ["evaluation.problems=513"],
            "evaluation.problems=513: arithmetic has 512 held-out problems, all of",
        ),
    ],
)
def test_what_may_be_meant_but_has_another_effect_is_said(
    compose_config, tmp_path, monkeypatch, caplog, overrides, said
):
    def fit(*_: object, **__: object) -> None:
        raise ConfigError("this is far enough")

    monkeypatch.setattr("lightning.pytorch.Trainer.fit", fit)
    with pytest.raises(ConfigError, match="far enough"):
        train(compose_config(*overrides, f"output_dir={tmp_path}"), [])
    assert said in caplog.text
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("eval", ["+evaluation.foo=1"], "evaluation.foo: unknown key"),
        ("eval", ["+seed=1"], "seed: unknown key"),
        ("eval", ["+benchmark.parts.arithmetic.levels=1"], "parts.arithmetic.levels: unknown key"),
        ("eval", ["+benchmark.weigths={a: 1}"], "did you mean benchmark.weights?"),
        ("eval", ["+pipo.lambda=0.1"], "pipo: unknown key"),
    ],
)
def test_an_evaluation_refuses_unknown_keys_too(compose_config, capsys, name, overrides, message):
    code, _ = exit_code(lambda: score(compose_config(*overrides, name=name), []))
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert message in said


def test_every_shipped_option_has_known_keys_only(compose_config):
    groups = ("algo", "pipo", "model", "recipe", "task", "rollout", "strategy", "logger")
    options = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in groups}
    options["model"].remove("huggingface")  # whose path is for the user to name
    for number in range(max(map(len, options.values()))):  # every option once, together with others
        chosen = [f"{group}={names[number % len(names)]}" for group, names in options.items()]
        needed = ["task.domain=physics"] if "task=science" in chosen else []
        needed += ["task.path=rows.jsonl", "reward=mine.py:f"] if "task=prompts" in chosen else []
        read(compose_config(*chosen, *needed), TrainConfig)
    rows = ("math_8b algo=ppo", "code algo=dapo pipo=none", "science algo=sdpo task.domain=physics")
    for row in rows:
        read(compose_config(*f"experiment={row}".split()), TrainConfig)
    for benchmark in ("math", "science", "tools", "arithmetic_levels"):
        read(compose_config(f"benchmark={benchmark}", name="eval"), EvalConfig)


def test_a_key_of_ones_own_may_stand_where_a_value_refers_to_it(compose_config):
    read(compose_config("+my.rate=1e-5", "recipe.learning_rate=${my.rate}"), TrainConfig)
    read(compose_config("+rate=1e-5", "recipe.learning_rate=${rate}"), TrainConfig)


def test_every_option_of_lightnings_trainer_that_is_refused_is_one(compose_config):
    accepted = inspect.signature(pl.Trainer.__init__).parameters
    assert set(trainer_options.REFUSED) <= set(accepted)
    assert set(LIMITS) <= set(accepted)


def test_a_failed_start_with_wandb_leaves_the_folder_free(compose_config, tmp_path):
    cfg = compose_config("logger=wandb", "pipo.kl_coef=0.1", f"output_dir={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match="needs a reference model"):
        train(cfg, [])
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", r"rows\.jsonl"),
        ('{"question": "1 + 1?", "answer": "#### 2"}\n{"question": \n', r"rows\.jsonl.*2"),
        ('{"question": "1 + 1?"}\n', r"rows\.jsonl.*1.*answer"),
        ('{"question": "1 + 1?", "answer": "two"}\n', r"rows\.jsonl.*1.*####"),
    ],
)
def test_bad_data_names_file_and_line(compose_config, tmp_path, rows, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(rows)
    cfg = compose_config(
        "task=gsm8k", f"task.path={path}", f"task.test_path={path}", f"output_dir={tmp_path / 'run'}"
    )
    with pytest.raises(ConfigError, match=message):
        train(cfg, [])


def test_a_missing_data_file(compose_config, tmp_path):
    cfg = compose_config("task=gsm8k", "task.path=nowhere.jsonl", f"output_dir={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        train(cfg, [])


def test_a_run_folder_that_holds_something_else(compose_config, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"holds something else \(thesis\.tex\)"):
        train(compose_config(f"output_dir={tmp_path}"), [])
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_folder_that_holds_a_run(compose_config, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1")
    with pytest.raises(ConfigError, match="already holds a run; go on with resume="):
        train(compose_config(f"output_dir={tmp_path}"), [])


def test_resuming_what_is_no_run(compose_config, tmp_path):
    with pytest.raises(ConfigError, match="no run here"):
        train(compose_config(f"resume={tmp_path / 'typo'}"), [f"resume={tmp_path / 'typo'}"])
    (tmp_path / "config.yaml").write_text("seed: 1")
    with pytest.raises(ConfigError, match=r"pipo\.lambda=0\.2: a resumed run keeps its own configuration"):
        train(compose_config(f"resume={tmp_path}"), [f"resume={tmp_path}", "pipo.lambda=0.2"])


def test_the_conf_folder_is_not_shadowed_by_defaults_in_code():
    """Numbers live in YAML, once: constructors that YAML fills have no defaults to disagree with."""
    from pipo.callbacks.pipo_options import PipoOptions
    from pipo.modules.objectives.grpo import GRPO
    from pipo.modules.options import BatchConfig, OptimizerConfig
    from pipo.rollout.local import LocalEngineConfig

    for target in (PipoOptions, GRPO, BatchConfig, OptimizerConfig, LocalEngineConfig):
        for parameter in inspect.signature(target).parameters.values():
            assert parameter.default is inspect.Parameter.empty, f"{target.__name__}.{parameter.name}"


def test_the_repository_has_the_conf_folder():
    assert (Path(__file__).parents[2] / "conf" / "train.yaml").is_file()
