"""Confine a forked child before untrusted code runs in it: resource limits, seccomp, Landlock."""

from __future__ import annotations

import atexit
import builtins
import linecache
import os
import random
import resource
import signal
import sys
import threading
import traceback
from _sitebuiltins import Quitter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, NoReturn

from . import at_fork, filesystem, kernel
from .processes import Scope, close_others, unwatch
from .settings import Limits

PROGRAM = "program.py"
FAILED = 1
_BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """The rest of the protections, which only the program itself must be under."""

    scope: Scope
    """Scope in which leftovers of a program are found."""
    limits: Limits | None
    """Resource limits of the program; None to set none."""
    calls: kernel.Filter | None
    """The system call filter (seccomp); None without one."""
    readable: filesystem.Readable | None
    """Folders and files that may be read besides the working directory, by Landlock; None without it."""
    linux: bool
    """Whether a process can ask to die with its parent."""
    private: Mapping[str, frozenset[str]]
    """The folders that the program may write to, each with what is in it from the start."""

    @property
    def alone(self) -> bool:
        """Whether a program cannot start processes."""
        return self.calls is not None

    def clear(self) -> None:
        """Remove every file that the program has written.

        Raises:
            OSError: one cannot be removed.
        """
        for folder, names in self.private.items():
            filesystem.clear(folder, names)

    def fork(
        self,
        work: Callable[[], None],
        *,
        streams: Sequence[int] = (),
        keep: Sequence[int] = (),
        runs: int,
        file_bytes: int | None = None,
    ) -> int:
        """Run ``work`` in a confined child; returns its process id.

        Args:
            work: what to do there.
            streams: what becomes its standard input, output and error; by default nothing.
            keep: descriptors that stay open.
            runs: number of tests that the child serves, each with the CPU time of one.
            file_bytes: size of the largest file that it may write; by default that of the limits.
        """
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        status = FAILED
        try:
            self._enter(streams, keep, runs, file_bytes)
            if os.getppid() == parent:  # which has not ended before the kernel could be told to tell
                work()
                status = 0
        finally:
            os._exit(status)

    def _enter(self, streams: Sequence[int], keep: Sequence[int], runs: int, file_bytes: int | None) -> None:
        unwatch()
        if not self.alone:
            at_fork.give_back()
        if self.linux:
            kernel.die_with_parent(signal.SIGKILL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        close_others(keep)
        if self.limits is not None:
            seconds = self.limits.cpu_s * runs
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            size = file_bytes or self.limits.output_kb << 10
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        if self.readable is not None:
            filesystem.restrict_files(self.readable, os.getcwd())
        if self.calls is not None:
            self.calls.install()


def open_streams() -> None:
    """Make ``sys.stdin``, ``sys.stdout`` and ``sys.stderr`` anew on the first three descriptors."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", _BLOCK, encoding="utf-8", closefd=False)  # noqa: SIM115
    errors = "backslashreplace"
    sys.stderr = sys.__stderr__ = open(2, "w", 1, "utf-8", errors, closefd=False)  # noqa: SIM115


def fresh_module(name: str) -> ModuleType:
    """An empty module for a program, in an interpreter that looks freshly started.

    A process that is forked later, as a copy of this one, needs random numbers of its own: ``random.seed()``.
    """
    module = ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    sys.argv = [PROGRAM]
    builtins.__dict__.update(exit=Quitter("exit", "Ctrl-D"), quit=Quitter("quit", "Ctrl-D"))
    atexit._clear()
    random.seed()
    return module


def compile_program(source: str) -> CodeType:
    """Compile a program and keep its lines for tracebacks.

    Raises:
        Exception: it cannot be compiled; what exactly depends on what is wrong with it.
    """
    code = compile(source, PROGRAM, "exec", dont_inherit=True)
    lines = source.splitlines(keepends=True)
    linecache.cache[PROGRAM] = (len(source), None, lines, PROGRAM)
    return code


def finish() -> None:
    """What an interpreter does at its end: wait for threads, call exit handlers, write what is buffered."""
    # With nothing to wait for, nor anybody to see it, it would only touch memory that has to be copied.
    if len(threading._active) > 1 or threading._threading_atexits or atexit._ncallbacks():  # type: ignore[attr-defined]
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def run_and_exit(code: CodeType, module: ModuleType) -> NoReturn:
    """Run a program as ``python program.py`` would, and end the process.

    ``sys.exit`` with any status is a normal end: what counts is what has been printed.
    """
    status = 0
    try:
        with suppress(SystemExit):
            exec(code, module.__dict__)
        finish()
    except BaseException as error:
        status = FAILED
        print_error(error)
    finally:
        os._exit(status)


def print_error(error: BaseException) -> None:
    """Write the traceback to the standard error stream, without the frames of the sandbox."""
    lines = traceback.format_exception(type(error), error, skip_own_frames(error), limit=-8)
    os.write(2, "".join(lines).encode("utf-8", "backslashreplace")[-_BLOCK:])


def skip_own_frames(error: BaseException) -> Any:
    """The traceback of an error from the first frame of the program on; None without any."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != PROGRAM:
        trace = trace.tb_next
    return trace


def one_line(error: BaseException) -> str:
    """Type and message of an error, cut to a length for display; never fails on a hostile ``__str__``."""
    name = type.__getattribute__(type(error), "__name__")
    try:
        message = str(error)
    except BaseException:
        message = "(its message cannot be shown)"
    trace = skip_own_frames(error)
    while (
        trace is not None
        and trace.tb_next is not None
        and trace.tb_next.tb_frame.f_code.co_filename == PROGRAM
    ):
        trace = trace.tb_next
    place = f" (line {trace.tb_lineno})" if trace is not None else ""
    return f"{name}: {message[:300]}{place}" if message else f"{name}{place}"
