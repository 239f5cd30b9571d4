"""Benchmarks that need no file: every task, and every part of a benchmark of ``conf/``, by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

_PART = "/task@benchmark.parts."


def single_benchmarks(conf: Path) -> dict[str, dict[str, Any]]:
    """Name -> the benchmark, written as in a file of ``conf/benchmark``.

    Only where no file has that name: a part is a benchmark as its own benchmark sets it up, a task as it is.

    Args:
        conf: the folder of configuration files.

    Example:
        ``benchmark=science_physics`` scores that part of ``conf/benchmark/science.yaml`` by itself.
    """
    found = {path.stem: _single(path.stem, path.stem) for path in (conf / "task").glob("*.yaml")}
    files = {path.stem: path for path in sorted((conf / "benchmark").glob("*.yaml"))}
    for path in files.values():
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        options = content["benchmark"].get("parts", {})
        for entry in content["defaults"]:
            for key, task in entry.items() if isinstance(entry, dict) else ():
                if key.startswith(_PART):
                    part = key.removeprefix(_PART)
                    found[part] = _single(part, task, **options.get(part, {}))
    return {name: benchmark for name, benchmark in found.items() if name not in files}


def register_single_benchmarks(conf: Path) -> None:
    """Add them to the options of ``benchmark=`` that Hydra finds in files."""
    for name, benchmark in single_benchmarks(conf).items():
        ConfigStore.instance().store(group="benchmark", name=name, node=benchmark, package="_global_")


def _single(part: str, task: str, **options: Any) -> dict[str, Any]:
    benchmark = {"name": part, "parts": {part: options}} if options else {"name": part}
    return {"defaults": [{f"{_PART}{part}": task}], "benchmark": benchmark}
