"""Searches for numbers: the file of a W&B sweep, and optuna behind Hydra's sweeper interface."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_plugins.pipo_optuna import OptunaSweeper, distribution, split
from pipo.config.sweep import JOB_TYPE, SWEEP_GROUP
from tests.conftest import ROOT

SWEEPS = sorted((ROOT / "conf/sweeps").glob("*.yaml"))


def command_line(sweep: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """What W&B's agent runs for one choice of the parameters."""
    # Here, because it takes seconds, which a worker that runs none of these tests does not need to wait for.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    values = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    values |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    words = []
    for word in create_sweep_command(list(sweep["command"])):
        words += values[word[2:-1]] if word.startswith("${") else [word]
    return words


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("end", ["min", "max"])
def test_a_wandb_sweep_gives_commands_that_train_takes(compose_config, path, end):
    sweep = yaml.safe_load(path.read_text())
    at = {"min": 0, "max": -1}[end]
    parameters = sweep["parameters"].items()
    chosen = {key: each["values"][at] if "values" in each else each[end] for key, each in parameters}
    words = command_line(sweep, chosen)
    assert words[:3] == ["/usr/bin/env", "python", "train.py"]
    assert (ROOT / words[2]).is_file()
    cfg = compose_config(*words[3:], "output_dir=x")
    assert cfg.logger.wandb.offline is False
    for key, value in chosen.items():
        assert OmegaConf.select(cfg, key) == value
        assert OmegaConf.select(compose_config(), key) != value  # an end of the range is not the default


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_wandb_sweep_maximises_what_a_run_logs_often_enough(path, compose_config):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] == "bayes"
    assert sweep["metric"] == {"name": "eval/pass@1", "goal": "maximize"}
    cfg = compose_config(*[word for word in sweep["command"] if not word.startswith("${")], "output_dir=x")
    points = cfg.iterations // cfg.curve.every
    stop = sweep["early_terminate"]
    # Hyperband compares at min_iter * eta^k points; one comparison at least must come before the end.
    assert stop["min_iter"] * stop["eta"] < points


def test_names_and_groups_of_runs(compose_config, monkeypatch):
    def place(output_dir):
        wandb = compose_config("logger=wandb", f"output_dir={output_dir}").logger.wandb
        return wandb.name, wandb.group, wandb.job_type

    assert place("outputs/x") == ("grpo-default-arithmetic-seed1", None, "train")
    monkeypatch.setenv(SWEEP_GROUP, "sweep")
    assert place("multirun/3-a") == ("3-a", "sweep", "train")
    monkeypatch.setenv(JOB_TYPE, "constant")
    assert place("multirun/3-a") == ("3-a", "sweep", "constant")
    monkeypatch.delenv(SWEEP_GROUP)
    monkeypatch.delenv(JOB_TYPE)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert place("outputs/x") == (None, None, "train")


def composed(*overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("train", ["hparams_search=optuna", *overrides], return_hydra_config=True)


def test_the_search_is_over_keys_of_the_configuration(compose_config):
    plain = compose_config()
    sweeper = composed().hydra.sweeper
    assert sweeper._target_ == "hydra_plugins.pipo_optuna.OptunaSweeper"
    for key in sweeper.params:
        assert OmegaConf.select(plain, key) is not None
    # The sweep's folder holds the study, and both have the study's name.
    hydra = composed("hydra.sweeper.study_name=other").hydra
    assert hydra.sweep.dir == "multirun/search/other"
    assert hydra.sweeper.storage == "sqlite:///multirun/search/other/study.db"
    # A run by itself is the same with the search as without: it only chooses how to sweep.
    ours = {key: value for key, value in composed().items() if key != "hydra"}
    assert OmegaConf.create(ours).iterations == plain.iterations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(0.0,0.5)", FloatDistribution(0.0, 0.5)),
        ("a=tag(log,interval(1.0e-6,1.0e-4))", FloatDistribution(1e-6, 1e-4, log=True)),
        ("a=int(interval(2,16))", IntDistribution(2, 16)),
        ("a=choice(4,8,16)", CategoricalDistribution(["4", "8", "16"])),
        ("a=range(2,8,2)", CategoricalDistribution(["2", "4", "6"])),
        ("a=default,none", CategoricalDistribution(["default", "none"])),
    ],
)
def test_hydras_grammar_as_distributions(text, expected):
    assert distribution(OverridesParser.create().parse_override(text)) == expected


class Jobs:
    """A launcher whose jobs return lambda; some fail, and one is stopped."""

    def __init__(self, fails: tuple[int, ...] = (), stops: int | None = None) -> None:
        self.fails, self.stops, self.seen = fails, stops, {}

    def launch(self, job_overrides, initial_job_idx):
        returned = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            if number == self.stops:
                raise SystemExit(130)
            self.seen[number] = dict(each.split("=", 1) for each in overrides)
            value = math.nan if number in self.fails else float(self.seen[number]["pipo.lambda"])
            result = JobReturn(status=JobStatus.COMPLETED)
            result.return_value = value
            returned.append(result)
        return returned


def search(folder: Path, jobs: Jobs, *arguments: str, storage: str | None, **numbers: int) -> None:
    """A search with the composed configuration's sweeper, but for the launcher."""
    chosen = {key: value for key, value in composed().hydra.sweeper.items() if key != "_target_"}
    sweeper = OptunaSweeper(**{**chosen, "storage": storage, **numbers})
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    sweeper.launcher = jobs
    sweeper.sweep([*arguments])


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_search_keeps_the_best_and_goes_on_where_it_stopped(tmp_path):
    first, second = Jobs(fails=(0,), stops=2), Jobs()
    stored = {"storage": f"sqlite:///{tmp_path}/study.db", "n_trials": 4}
    with pytest.raises(SystemExit):
        search(tmp_path, first, "iterations=4", **stored)
    assert [row["state"] for row in trials(tmp_path)] == ["fail", "complete"]
    search(tmp_path, second, "iterations=4", **stored)
    # Trial 2 was stopped: it is made again as 3, and counts once; trial 0 failed by itself and counts.
    assert sorted(first.seen) == [0, 1]
    assert sorted(second.seen) == [3, 4]
    assert [row["trial"] for row in trials(tmp_path)] == ["0", "1", "3", "4"]
    study = optuna.load_study(study_name="pipo", storage=stored["storage"])
    assert study.trials[3].params == study.trials[2].params
    for seen in (*first.seen.values(), *second.seen.values()):
        assert seen["iterations"] == "4"
        assert set(seen) == {"iterations", *composed().hydra.sweeper.params}
    best = OmegaConf.load(tmp_path / "optimization_results.yaml")
    values = {row["trial"]: float(row["value"]) for row in trials(tmp_path) if row["value"]}
    assert best.best_value == max(values.values())
    assert values[str(best.best_trial)] == best.best_params["pipo.lambda"]
    # All trials are there: the command does nothing more.
    third = Jobs()
    search(tmp_path, third, "iterations=4", **stored)
    assert third.seen == {}
    with pytest.raises(ConfigCompositionException, match="begin another with"):
        search(tmp_path, third, "pipo.window=choice(2,3)", **{**stored, "n_trials": 5})


def test_trials_run_beside_each_other_where_the_launcher_can(tmp_path):
    jobs = Jobs()
    search(tmp_path, jobs, storage=None, n_trials=5, n_jobs=2)
    assert sorted(jobs.seen) == [0, 1, 2, 3, 4]


def test_the_command_line_decides_what_is_searched():
    params = {"pipo.lambda": "interval(0.0,0.5)", "pipo.window": "choice(4,8)"}
    fixed, space = split(["pipo.window=3", "seed=choice(1,2)", "iterations=4"], params)
    assert fixed == ["pipo.window=3", "iterations=4"]
    assert space == {"pipo.lambda": FloatDistribution(0.0, 0.5), "seed": CategoricalDistribution(["1", "2"])}
    with pytest.raises(ConfigCompositionException, match="nothing is left to search"):
        split(["pipo.window=3", "pipo.lambda=0.1"], params)


def test_a_value_that_is_no_sweep_is_refused():
    with pytest.raises(ConfigCompositionException, match=r"a=3: a single value"):
        distribution(OverridesParser.create().parse_override("a=3"))
