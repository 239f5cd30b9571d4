"""Report on this machine: versions, cores, memory, GPUs, and the sandbox's protections.

``python -m pipo doctor`` prints it; whatever it finds, its exit status is 0.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib import metadata

from pipo_sandbox.__main__ import report as sandbox_report
from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "lightning", "transformers", "datasets", "math-verify", "wandb", "vllm")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report; there is nothing to choose."""
    argparse.ArgumentParser(prog="python -m pipo doctor", description=__doc__).parse_args(arguments)
    Console().print(_machine())
    for line in sandbox_report():
        print(line)


def _machine() -> Table:
    table = Table("", "found", title="machine")
    for name in PACKAGES:
        table.add_row(name, _version(name))
    table.add_row("cores", str(_cores()))
    table.add_row("memory", _memory())
    for line in _gpus():
        table.add_row("GPU", line)
    return table


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def _gpus() -> list[str]:
    import torch  # seconds to import; the graders of this process need none of it

    count = torch.cuda.device_count()
    gibibytes = [torch.cuda.get_device_properties(i).total_memory / 2**30 for i in range(count)]
    return [f"{torch.cuda.get_device_name(i)}, {gibibytes[i]:.0f} GiB" for i in range(count)] or ["none"]


if __name__ == "__main__":
    main()
