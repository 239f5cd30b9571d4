"""Compile the idle CUDA guard, and load it into a process before torch. Imports nothing of torch's itself."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")


def torch_folder() -> Path:
    """Where torch is installed."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def compiler() -> str | None:
    """A C++ compiler, if this machine has one."""
    return shutil.which("g++") or shutil.which("c++")


def compiled(folder: Path) -> Path:
    """The library, made unless the folder has it for this source and this torch; takes some seconds.

    Raises:
        RuntimeError: with what the compiler said.
    """
    torch = torch_folder()
    version = (torch / "version.py").read_bytes()
    library = folder / f"guard-{hashlib.sha256(SOURCE.read_bytes() + version).hexdigest()[:16]}.so"
    if library.exists():
        return library
    program = compiler()
    assert program is not None
    own = library.with_suffix(f".{os.getpid()}")  # another process may be at it
    flags = ["-shared", "-fPIC", "-std=c++20", "-O0", "-w", "-D_GLIBCXX_USE_CXX11_ABI=1"]
    done = subprocess.run(
        [program, *flags, f"-I{torch / 'include'}", str(SOURCE), "-o", str(own)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{program} cannot compile {SOURCE.name}:\n{done.stderr[-2000:]}")
    own.replace(library)
    return library


def load(library: Path) -> None:
    """Register the guard; torch looks for it once, while it is imported."""
    ctypes.CDLL(str(torch_folder() / "lib" / "libtorch_cpu.so"), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))
