"""What this machine offers: protections for programs under test, versions, cores, memory, GPUs.

``python -m pipo doctor`` prints it; whatever it finds, its exit status is 0.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata

from pipo_sandbox.bubblewrap import EXECUTABLE
from pipo_sandbox.client import SandboxError
from pipo_sandbox.settings import PROTECTIONS
from rich.console import Console
from rich.table import Table

from pipo.graders.code import CodeGrader, weakness
from pipo.graders.code_tests import ProgramJob, StdinTests

PACKAGES = ("torch", "lightning", "transformers", "datasets", "math-verify", "wandb", "vllm")

# Tried from inside a sandbox: each fails where programs are kept in.
ATTEMPTS = {
    "use the network": (
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))"
    ),
    "read a file of this user": "open(input().split(maxsplit=1)[1]).close()",
    "write to a folder that all may write": "open('/var/tmp/.pipo-doctor', 'x').close()",
    "see this process": "import os\nos.listdir(f'/proc/{input().split()[0]}/fd')",
    "start a process": "import os\npid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)",
    "take more memory than allowed": "x = bytearray(1 << 31)",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report; there is nothing to choose."""
    argparse.ArgumentParser(prog="python -m pipo doctor", description=__doc__).parse_args(arguments)
    console = Console()
    console.print(_machine())
    grader = CodeGrader(
        reward="all_pass",
        workers=1,
        timeout_s=10.0,
        total_s=60.0,
        max_timeouts=1,
        cpu_s=5,
        memory_mb=512,
        output_kb=64,
        float_tolerance=0.0,
    )
    try:
        report = grader.protections()
        console.print(_protections(report))
        console.print(_attempts(grader))
        console.print(
            weakness(report) or "Programs under test are kept from the network, files and processes."
        )
    except SandboxError as error:
        console.print(f"Programs cannot be graded here: {error}")
    finally:
        grader.close()


def _machine() -> Table:
    table = Table("", "found", title="machine")
    table.add_row("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    table.add_row("user", "root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "not root")
    table.add_row("python", f"{platform.python_version()} ({sys.executable})")
    for name in PACKAGES:
        table.add_row(name, _version(name))
    table.add_row("cores", str(_cores()))
    table.add_row("memory", _memory())
    for line in _gpus():
        table.add_row("GPU", line)
    table.add_row("bubblewrap", shutil.which(EXECUTABLE) or "not installed")
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


def _protections(report: dict[str, str]) -> Table:
    table = Table("protection", "active", "if not", title="programs under test: protections")
    for name, absence in PROTECTIONS.items():
        table.add_row(name, "yes" if not report[name] else f"no: {report[name]}", absence)
    return table


def _attempts(grader: CodeGrader) -> Table:
    table = Table("a program tries to", "outcome", title="programs under test: tried just now")
    with tempfile.NamedTemporaryFile() as file:
        tests = StdinTests(inputs=(f"{os.getpid()} {file.name}",), outputs=("done",))
        for name, text in ATTEMPTS.items():
            reward = grader.grade(ProgramJob(program=f"{text}\nprint('done')", tests=tests))
            lines = (reward.error or reward.feedback or "").splitlines()
            table.add_row(name, "it could" if reward.score else f"refused: {lines[0].partition(': ')[2]}")
    return table


if __name__ == "__main__":
    main()
