"""Forms of runs that can be read, each recognised by its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipo.analysis.feedback import prime_rl, tables, trl, verl
from pipo.analysis.feedback.curve import Curve
from pipo.errors import ConfigError

# Rewards per prompt come before the curve alone, because they say more.
FORMS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, str | None], Curve]]] = {
    "trl-completions": (trl.is_completions, trl.read_completions),
    "trl": (trl.is_state, trl.read_state),
    "verl-rollouts": (verl.is_rollouts, verl.read_rollouts),
    "prime-rl-traces": (prime_rl.is_traces, prime_rl.read_traces),
    "prime-rl": (prime_rl.is_metrics, prime_rl.read_metrics),
    "pipo": (tables.is_run, tables.read_run),
    "csv": (tables.is_csv, tables.read_csv),
    "verl": (verl.is_log, verl.read_log),
}
"""Name -> how it is recognised, how it is read."""


def read(path: Path, form: str | None, reward: str | None, prompts: float | None) -> Curve:
    """One run.

    Args:
        path: a file or folder.
        form: one of :data:`FORMS`; None to recognise it.
        reward: key or column of the reward; None for the form's own.
        prompts: per iteration; None for what the files say.

    Raises:
        ConfigError: naming file, and row or column, of what cannot be read.
    """
    path = path.resolve()
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file or folder")
    name = form or next((name for name, (recognised, _) in FORMS.items() if recognised(path)), None)
    if name is None:
        raise ConfigError(f"{path}: none of the forms {', '.join(FORMS)}; name one with --form")
    curve = FORMS[name][1](path, reward)
    return curve if prompts is None else replace(curve, prompts=prompts)
