"""Hydra sweeper for hyperparameter search by optuna (ask and tell).

Hydra finds sweepers in the namespace package ``hydra_plugins`` and nowhere else, and imports what it finds
there in every program; so optuna is imported only when a search begins.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from pipo.runs.files import replace_text

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

#: User attribute of a trial: the number of the interrupted one that it repeats.
REPEATS = "repeats"
RESULTS_FILE = "optimization_results.yaml"


class OptunaSweeper(Sweeper):
    """Searches with a tree-structured Parzen estimator; the trials are jobs as of any other sweep.

    Args:
        direction: ``maximize`` or ``minimize`` what ``train.py`` returns.
        n_trials: of the study in all; what its storage has already counts.
        n_jobs: trials that are launched together.
        startup_trials: random trials at the beginning.
        seed: of the search; one that was interrupted goes on with other numbers than one that was not.
        study_name: of the study in its storage.
        storage: optuna's address of it.
        params: key of the configuration -> sweep in Hydra's grammar.
    """

    def __init__(
        self,
        *,
        direction: Literal["maximize", "minimize"],
        n_trials: int,
        n_jobs: int,
        startup_trials: int,
        seed: int,
        study_name: str,
        storage: str,
        params: Mapping[str, Any],
    ) -> None:
        self.direction: Literal["maximize", "minimize"] = direction
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.startup_trials, self.seed = startup_trials, seed
        self.study_name, self.storage, self.params = study_name, storage, params
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before :meth:`sweep`."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until the study has enough; what the command line sets is not searched."""
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise ConfigCompositionException(
                'hydra/sweeper=optuna: optuna is missing; pip install ".[search]"'
            ) from error
        assert self.config is not None
        fixed, space = split(arguments, self.params)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=self.study_name,
            storage=self.storage,
            direction=self.direction,
            load_if_exists=True,
        )
        # A search that goes on must not draw again what its first part drew.
        study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + len(study.trials),
            n_startup_trials=self.startup_trials,
            constant_liar=self.n_jobs > 1,
        )
        repeat_interrupted(study)
        while (left := self.n_trials - len(ended(study))) > 0:
            self._launch(study, [self._ask(study, space) for _ in range(min(left, self.n_jobs))], fixed)
            write_results(study, folder)
        print(f"study {self.study_name}: {len(ended(study))} trials, see {folder / RESULTS_FILE}")

    def _ask(self, study: optuna.Study, space: dict[str, BaseDistribution]) -> optuna.Trial:
        """The next trial."""
        try:
            return study.ask(space)
        except ValueError as error:  # the only one that it has: another kind or choice than in the storage
            raise ConfigCompositionException(
                f"hydra.sweeper.params: study {self.study_name!r} was searched otherwise ({error}); "
                "begin another with hydra.sweeper.study_name="
            ) from error

    def _launch(self, study: optuna.Study, trials: Sequence[optuna.Trial], fixed: Sequence[str]) -> None:
        """Run trials as jobs and tell the study what came out."""
        from optuna.trial import TrialState

        assert self.launcher is not None
        jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
        for trial, job in zip(
            trials, self.launcher.launch(jobs, initial_job_idx=trials[0].number), strict=True
        ):
            value = float(job.return_value)  # raises what the job raised
            if math.isfinite(value):
                study.tell(trial, value)
            else:
                study.tell(trial, state=TrialState.FAIL)


def split(arguments: list[str], params: Mapping[str, Any]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """What every trial gets, and what is searched: ``params`` and sweeps on the command line.

    Raises:
        ConfigCompositionException: nothing is searched.
    """
    parser = OverridesParser.create()
    given = parser.parse_overrides(arguments)
    taken = {each.get_key_element() for each in given}
    searched = parser.parse_overrides([f"{key}={value}" for key, value in params.items() if key not in taken])
    searched += [each for each in given if each.is_sweep_override()]
    if not searched:
        raise ConfigCompositionException("hydra.sweeper.params: nothing is left to search")
    fixed = [text for text, each in zip(arguments, given, strict=True) if not each.is_sweep_override()]
    return fixed, {each.get_key_element(): distribution(each) for each in searched}


def distribution(override: Override) -> BaseDistribution:
    """Hydra's sweep as optuna's distribution: an interval of numbers, or one of several values.

    Raises:
        ConfigCompositionException: it is a single value.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not override.is_sweep_override():
        raise ConfigCompositionException(
            f"hydra.sweeper.params: {override.input_line}: a single value; write interval(...) or choice(...)"
        )
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return CategoricalDistribution([*override.sweep_string_iterator()])
    assert value.start is not None
    assert value.end is not None
    log = "log" in value.tags
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=log)
    return FloatDistribution(value.start, value.end, log=log)


def repeat_interrupted(study: optuna.Study) -> None:
    """What was under way when an earlier program ended comes first, in a folder of its own."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={REPEATS: trial.number})


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that have a result or failed, without those that were interrupted."""
    repeated = {trial.user_attrs.get(REPEATS) for trial in study.trials}
    return [trial for trial in study.trials if trial.state.is_finished() and trial.number not in repeated]


def write_results(study: optuna.Study, folder: Path) -> None:
    """The best in ``optimization_results.yaml``, with Hydra's keys, and every trial in ``trials.csv``."""
    trials = ended(study)
    keys = sorted({key for trial in trials for key in trial.params})
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["trial", "state", "value", *keys])
    for trial in trials:
        values = [trial.params.get(key, "") for key in keys]
        table.writerow([trial.number, trial.state.name.lower(), trial.value, *values])
    replace_text(folder / "trials.csv", text.getvalue())
    if any(trial.value is not None for trial in trials):
        best = {
            "name": "optuna",
            "best_trial": study.best_trial.number,
            "best_params": study.best_params,
            "best_value": study.best_value,
        }
        replace_text(folder / RESULTS_FILE, OmegaConf.to_yaml(best))
