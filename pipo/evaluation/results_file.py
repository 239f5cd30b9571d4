"""``results.json``, the result of ``eval.py``: written whole, read back and checked."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipo.errors import ConfigError
from pipo.evaluation.benchmark import Column
from pipo.evaluation.statistics import Floats
from pipo.runs.places import command, resuming

RESULTS_FILE = "results.json"
# What makes two results of a part mean different things.
IDENTITY = {
    "task": "task",
    "version": "version of the task",
    "template": "template",
    "problems": "number of problems",
    "problems_hash": "problems with their references and tests (hash)",
    "grading_hash": "options of the grader (hash)",
    "prompts_hash": "rendered prompts (hash; the same template may show more or fewer worked problems)",
}
# How responses were drawn: where it differs, it is part of the difference.
SAMPLING = ("samples", "temperature", "top_p", "top_k", "min_p", "max_response_tokens")


@dataclass(frozen=True, kw_only=True)
class EvaluationFile:
    """What ``results.json`` says."""

    path: Path
    """The result file."""
    model: str
    """Name of the model."""
    parts: Mapping[str, Mapping[str, Any]]
    """Part -> its description, see ``docs/evaluation.md``."""
    rates: Mapping[str, Floats]
    """Part -> share of right responses to each problem."""
    columns: Sequence[Column]
    """The columns that the average is over."""


def write_results(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write ``results.json`` with the ``evaluate`` library.

    The library adds the time, the git commit of the working directory, and its own version and that of
    Python. Nothing is sent anywhere. An earlier file is replaced as a whole.

    Args:
        folder: made when it does not exist.
        content: results and what was evaluated; plain JSON types.

    Returns:
        The path of the file.
    """
    # Imported here because it pulls in the datasets library, which takes seconds.
    from evaluate import save

    # Written beside and moved, because the file says that the evaluation is finished.
    with _without_stderr():
        temporary = Path(save(folder / f"unfinished_{RESULTS_FILE}", **content))
    return temporary.replace(folder / RESULTS_FILE)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """The library asks git for a commit, whose complaint outside a checkout would look like an error."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def read_results(place: Path) -> EvaluationFile:
    """A result file, or the one in a folder.

    Raises:
        ConfigError: it does not exist, or is not a result of ``eval.py``.
    """
    path = place / RESULTS_FILE if place.is_dir() else place
    if not path.is_file():
        if (path.parent / "train.log").is_file() or (path.parent / "summary.json").is_file():
            run = command("eval.py", f"model={path.parent}")
            raise ConfigError(
                f"{place}: a training run; evaluate it with {run}, and compare what that writes"
            )
        if (path.parent / "config.yaml").is_file():
            raise ConfigError(
                f"{place}: no {RESULTS_FILE} yet; go on with {resuming(path.parent, 'eval.py')}"
            )
        raise ConfigError(f"{place}: no {RESULTS_FILE} here; name the folder or the file of an evaluation")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = content["metadata"]["parts"]
        columns = [
            Column(name=name, shares=column["shares"])
            for name, column in content["average"]["columns"].items()
        ]
        _check_complete(path, parts, content["solved"])
        rates = {part: np.array(content["solved"][part]) / parts[part]["samples"] for part in parts}
        wrong = [part for part in parts if len(rates[part]) != parts[part]["problems"]]
        if wrong:
            raise ConfigError(f"{path}: {wrong[0]} does not hold as many results as problems")
        model = content["metadata"]["model"]["name"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a result of eval.py ({type(error).__name__}: {error})") from error
    return EvaluationFile(path=path, model=model, parts=parts, rates=rates, columns=columns)


def _check_complete(path: Path, parts: Mapping[str, Any], solved: Mapping[str, Any]) -> None:
    """Refuse a file of another layout, or with numbers that cannot be.

    Raises:
        ConfigError: naming what is missing or wrong.
    """
    for part, described in parts.items():
        flat = {**described["sampling"], **described}
        missing = [key for key in (*IDENTITY, *SAMPLING) if key not in flat]
        if missing:
            raise ConfigError(
                f"{path}: {part} has no {', '.join(missing)}; it was written by another version of eval.py"
            )
        n = described["samples"]
        if not isinstance(n, int) or n < 1 or any(not 0 <= c <= n for c in solved[part]):
            raise ConfigError(
                f"{path}: {part}: solved must lie between 0 and samples={n}, which is at least 1"
            )
