"""Training, scoring and drawing as functions, for scripts and notebooks; the package exports them.

Only training is imported here, so that a script that trains does not wait for the rest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipo import training
from pipo.config.cli import first_line, register_resolvers
from pipo.config.command_line import (
    composed_job,
    expand_model,
    expand_open,
    expand_paths,
    expand_task,
    quoted,
)
from pipo.config.reading import read
from pipo.config.single_benchmarks import register_single_benchmarks
from pipo.config.tree import TrainConfig
from pipo.errors import ConfigError
from pipo.evaluation.results_file import RESULTS_FILE
from pipo.evaluation.statistics import Floats
from pipo.home import CONF
from pipo.imports import left_alone
from pipo.run_parts import Parts, parts_of
from pipo.runs.quiet import quiet
from pipo.runs.run_log import METRICS_FILE, read_metrics
from pipo.runs.run_summary import MODEL_FOLDER, SUMMARY_FILE
from pipo.runs.terminal import warnings_on_terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES_FILE = "samples.jsonl"
# Options of what a run has around its parts.
_AROUND = {
    *("trainer", "callbacks", "logger", "debug", "resume", "checkpoint", "output_dir"),
    *("evaluation", "curve", "probe", "samples"),
}

register_resolvers()


@dataclass(frozen=True)
class Run:
    """A training run on the disk, made by :func:`train` or by ``train.py``."""

    folder: Path
    """The run folder."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """``summary.json``: iterations, seconds, and the held-out evaluations ``before`` and ``after``."""
        return json.loads((self.folder / SUMMARY_FILE).read_text(encoding="utf-8"))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every metric of every iteration, a row each; ``pandas.DataFrame(run.metrics)`` is their table."""
        return read_metrics(self.folder / METRICS_FILE)

    def curve(self, metric: str) -> tuple[Floats, Floats]:
        """The iterations that have a finite value of a metric, and the values.

        Raises:
            KeyError: no iteration has it.
        """
        from pipo.analysis.run_metrics import read_run

        at, values = read_run(self.folder.name, self.folder / METRICS_FILE).series(metric)
        if not len(at):
            known = sorted({name for row in self.metrics for name in row} - {"iteration"})
            raise KeyError(f"{metric}: no such metric; there are {', '.join(known)}")
        return at, values

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Sampled responses with prompt, reference, reward and advantage, a row each."""
        return read_metrics(self.folder / SAMPLES_FILE)

    @property
    def model(self) -> Path:
        """The trained model, as ``AutoModelForCausalLM.from_pretrained`` takes it."""
        return self.folder / MODEL_FOLDER


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on the disk, made by :func:`evaluate` or by ``eval.py``."""

    folder: Path
    """Its folder."""

    @property
    def results(self) -> Mapping[str, Mapping[str, Any]]:
        """Part of the benchmark -> its numbers, ``pass@1`` and so on, with intervals."""
        return self._content["results"]

    @property
    def average(self) -> Mapping[str, Any]:
        """The same numbers, averaged over the parts."""
        return self._content["average"]

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Every response with its verdict, a row each."""
        text = (self.folder / SAMPLES_FILE).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n") if line]

    @property
    def _content(self) -> Mapping[str, Any]:
        return json.loads((self.folder / RESULTS_FILE).read_text(encoding="utf-8"))


def train(*words: str, callbacks: Sequence[pl.Callback] = (), **options: Any) -> Run:
    """Train as ``python train.py`` does, and return the run.

    Args:
        *words: of the command line, such as ``"algo=dapo"`` or ``"pipo.lambda=0.2"``.
        callbacks: of Lightning's or your own, beside those that the words name.
        **options: the same as names and values; a dotted key as ``**{"recipe.learning_rate": 1e-3}``.

    Raises:
        ConfigError: something that was given cannot be used; one line names it.
        RunFailed: the run cannot go on for a reason outside of the program.
        RunStopped: a signal ended it; an interrupted notebook cell, too. The message says how to go on.
    """
    given = [*words, *_words(options)]
    expand_model(given)
    expand_paths(given)
    expand_open(given)
    with _one_line(), warnings_on_terminal(), left_alone():
        cfg = composed_job(given, "train")
        folder = Path(str(cfg.resume or cfg.output_dir))
        OmegaConf.update(cfg, "output_dir", str(folder))  # else it would follow the clock
        own = {f"callbacks[{number}]": callback for number, callback in enumerate(callbacks)}
        training.train(cfg, given, callbacks=own, command=["python", "train.py", *given])
    return Run(folder)


@contextmanager
def parts(*words: str, **options: Any) -> Iterator[Parts]:
    """Build what ``Trainer.fit`` takes, for a Lightning trainer of one's own.

    Args:
        *words: of the command line, as :func:`train` takes them.
        **options: the same as names and values.

    Raises:
        ConfigError: something that was given cannot be used, or is for the trainer; one line names it.
    """
    given = [*words, *_words(options)]
    for word in given:
        name = word.lstrip("+~").partition("=")[0]
        if name.partition(".")[0] in _AROUND:
            raise ConfigError(
                f"{name}: pipo.parts builds the module, its data and the callbacks of the method; what is "
                "around them is your Trainer's, or pipo.train's"
            )
    expand_model(given)
    expand_paths(given)
    with _one_line(), warnings_on_terminal():
        quiet()
        with parts_of(read(composed_job(given, "train"), TrainConfig)) as built:
            yield built


def evaluate(model: str | Path | Run, *words: str, **options: Any) -> Evaluation:
    """Score a model as ``python eval.py`` does.

    Args:
        model: a run, a run folder, a checkpoint, a Hugging Face folder or hub id, or an option of
            ``conf/model``.
        *words: of the command line, such as ``"benchmark=math"`` or ``"task=gsm8k"``.
        **options: the same as names and values.

    Raises:
        ConfigError: something that was given cannot be used; one line names it.
        RunFailed: a grader cannot start.
        RunStopped: a signal ended it.
    """
    from pipo.scoring import score

    register_single_benchmarks(CONF)
    where = model.folder if isinstance(model, Run) else model
    given = [*_words({"model": str(where)}), *words, *_words(options)]
    expand_model(given)
    expand_task(given)
    expand_paths(given)
    expand_open(given)
    with _one_line(), warnings_on_terminal(), left_alone():
        cfg = composed_job(given, "eval")
        folder = Path(str(cfg.resume or cfg.output_dir))
        OmegaConf.update(cfg, "output_dir", str(folder))
        score(cfg, given, command=["python", "eval.py", *given])
    return Evaluation(folder)


def figure(*runs: Run, **named: Run | Sequence[Run]) -> Figure:
    """The figure of ``curves.png``, of one run or of several over each other.

    Args:
        *runs: drawn by the names of their folders.
        **named: label -> a run, or the seeds of one arm, of which the mean and its interval are drawn.
    """
    from pipo.analysis.plotting.curves import draw
    from pipo.analysis.plotting.groups import Group
    from pipo.analysis.run_metrics import read_run

    arms = {run.folder.name: [run] for run in runs}
    arms |= {label: [some] if isinstance(some, Run) else [*some] for label, some in named.items()}
    return draw(
        [
            Group(name=label, runs=tuple(read_run(label, run.folder / METRICS_FILE) for run in some))
            for label, some in arms.items()
        ]
    )


@contextmanager
def _one_line() -> Iterator[None]:
    """What Hydra and OmegaConf object to is an error of the same kind as what the package does."""
    logging.getLogger("pipo").setLevel(logging.INFO)  # for the run's log; handlers choose what to show
    try:
        yield
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from error


def _words(options: Mapping[str, Any]) -> list[str]:
    """Names and values as words of the command line."""
    return [f"{name}={_value(value)}" for name, value in options.items()]


def _value(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}: {_value(each)}' for name, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    return quoted(str(value)) if isinstance(value, str | Path) else str(value)
