"""One sandboxed process of BFCL's simulators, and where the package with them lies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipo_sandbox import (
    CallProgram,
    Closed,
    Late,
    Launcher,
    SandboxError,
    WireError,
    call_program,
    decode,
    encode,
)

from pipo.errors import TaskError

PACKAGE = "bfcl_eval"
_PROGRAM = Path(__file__).with_name("bfcl_simulators.py")
_FUNCTIONS = ("begin", "step", "end", "verdict")
_MOST_STEPS = 1 << 30


@lru_cache(maxsize=1)
def package_folder() -> Path:
    """Where the package with the simulators lies; nothing of it is imported.

    Raises:
        TaskError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(
            "BFCL's multi-turn problems need the package bfcl-eval, which is not installed: "
            "pip install --no-deps bfcl-eval==2026.3.23 (make bfcl)"
        )
    return Path(next(iter(spec.submodule_search_locations)))


class OverTheLimit(Exception):
    """A step ran into a limit, or made its process answer nonsense."""


class Worker:
    """One process of simulators, started when it is asked and again when it has ended."""

    def __init__(self, launch: Callable[[], Launcher], seconds: float, wall_s: float, answer: int) -> None:
        self._launch, self._seconds, self._wall_s, self._answer = launch, seconds, wall_s, answer
        self.lock = threading.Lock()
        self._stack: ExitStack | None = None
        self._program: CallProgram | None = None
        self._handles: dict[str, int] = {}
        self._steps = 1

    def ask(self, function: str, *arguments: Any, steps: int = 1) -> Any:
        """What a function of the program answers, which may take the time of so many steps.

        Raises:
            OverTheLimit: it did not, or not in time; the process has ended.
            SandboxError: the sandbox failed.
        """
        try:
            program = self._running()
            self._steps = steps
            answer = program.call(self._handles[function], encode(arguments))
        except (Late, Closed, WireError) as error:
            self.stop()  # a SandboxError where it is not the program's fault
            raise OverTheLimit(type(error).__name__) from None
        except BaseException as error:
            stack, self._stack, self._program = self._stack, None, None
            if stack is not None:
                stack.__exit__(type(error), error, error.__traceback__)
            raise
        match answer:
            case ["value", node]:
                return decode(node)
            case ["raise", str(kind), str(text)]:
                raise OverTheLimit(f"{kind}: {text}")
        self.stop()
        raise OverTheLimit("a malformed answer")

    def forget(self, number: int) -> None:
        """Let the process drop a world, if it is running."""
        if self._program is not None:
            with suppress(OverTheLimit, SandboxError):  # then the world has gone with the process
                self.ask("end", number)

    def stop(self) -> None:
        """End the process, if there is one."""
        stack, self._stack, self._program = self._stack, None, None
        if stack is not None:
            stack.close()

    def _running(self) -> CallProgram:
        if self._program is None:
            self._stack = ExitStack()
            program = self._stack.enter_context(
                call_program(
                    self._launch(),
                    runs=_MOST_STEPS,
                    answer_bytes=self._answer,
                    allow=lambda used_s: self._seconds * self._steps,
                    wall_s=self._wall_s,
                )
            )
            loaded = program.load(_PROGRAM.read_text(encoding="utf-8"))
            if loaded != ["value", None]:
                raise TaskError(f"the simulators of {PACKAGE} cannot be loaded: {loaded!r:.300}")
            for name in _FUNCTIONS:
                self._handles[name] = program.function(name)[1][1]
            self._program = program
        return self._program
