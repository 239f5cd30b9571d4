"""Report on the sandbox: protections of this system, and what a program could do just now.

``python -m pipo_sandbox`` prints it; whatever it finds, its exit status is 0.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence

from .bubblewrap import EXECUTABLE
from .client import Launcher, SandboxError
from .protections import NOT_NEEDED, PROTECTIONS, weakness
from .sessions import stdin_program
from .settings import Limits

# Tried from inside a sandbox: each fails where programs are kept in.
ATTEMPTS = {
    "use the network": (
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))"
    ),
    "read a file of this user": "open(input().split(maxsplit=1)[1]).close()",
    "write to a folder that all may write": "open('/var/tmp/.pipo-sandbox', 'x').close()",
    "see this process": "import os\nos.listdir(f'/proc/{input().split()[0]}/fd')",
    "start a process": "import os\npid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)",
    "take more memory than allowed": "x = bytearray(1 << 31)",
}
_SECONDS, _WALL_S, _OUTPUT_BYTES = 10.0, 100.0, 1 << 16
_WIDTH = 110
_NAME_WIDTH = max(map(len, (*PROTECTIONS, *ATTEMPTS))) + 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report; there is nothing to choose."""
    argparse.ArgumentParser(prog="python -m pipo_sandbox", description=__doc__).parse_args(arguments)
    print("\n".join(report()))


def report() -> Iterator[str]:
    """The lines of the report, each as soon as it is known."""
    root = "root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "not root"
    yield f"system: {platform.system()} {platform.release()} {platform.machine()}, {root}"
    yield f"python: {platform.python_version()} ({sys.executable})"
    yield f"bubblewrap: {shutil.which(EXECUTABLE) or 'not installed'}"
    try:
        with Launcher(limits=Limits(cpu_s=5, memory_mb=512, output_kb=64), slots=1) as launcher:
            yield "\nprotections of programs under test"
            for name, absence in PROTECTIONS.items():
                missing = launcher.report[name]
                yield _row(name, _state(missing, absence))
            yield "\nwhat a program tried just now"
            yield from _attempts(launcher)
            kept_in = "Programs under test are kept from the network, files and processes."
            yield f"\n{weakness(launcher.report) or kept_in}"
    except SandboxError as error:
        yield f"No program can be run here: {error}"


def _state(missing: str, absence: str) -> str:
    if missing in ("", NOT_NEEDED):
        return missing or "active"
    return f"no: {missing}; so {absence}"


def _attempts(launcher: Launcher) -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as file:
        text = f"{os.getpid()} {file.name}\n".encode()
        for name, source in ATTEMPTS.items():
            with stdin_program(launcher, f"{source}\nprint('done')", wall_s=_WALL_S) as program:
                ended = program.run(text, seconds=_SECONDS, wall_s=_WALL_S, output_bytes=_OUTPUT_BYTES)
            if ended.printed == b"done\n":
                yield _row(name, "it could")
                continue
            lines = ended.errors.strip().splitlines()
            yield _row(name, f"refused: {lines[-1] if lines else f'exit status {ended.status}'}")


def _row(name: str, text: str) -> str:
    indent = " " * _NAME_WIDTH
    return textwrap.fill(text, _WIDTH, initial_indent=name.ljust(_NAME_WIDTH), subsequent_indent=indent)


if __name__ == "__main__":
    main()
