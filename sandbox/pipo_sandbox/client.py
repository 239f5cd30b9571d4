"""The trusted side: starts a launcher, and sandboxes on it."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from . import bubblewrap, wire
from .paths import LIBRARY_PATHS, readable_paths, seen_below
from .protections import PROTECTIONS
from .settings import Limits, Settings

Service = Literal["s", "c", "j", "r"]

# Loads what the launcher needs of this package: without its __init__, which is the trusted side's, and
# without a further folder on the path, where a module could hide one of the standard library.
_BOOT = (
    "import sys, types; package = sys.modules['{name}'] = types.ModuleType('{name}'); "
    "package.__path__ = [sys.argv[1]]; from {name}.at_fork import held_back\n"
    "with held_back(): from {name}.launcher import main, import_common; import_common()\n"
    "main(int(sys.argv[2]), sys.argv[3])"
)
USE = tuple(PROTECTIONS)  # all that the system allows; tests take some away
_START_TIMEOUT_S = 60.0  # a cold or busy disk; not the clock of a program
_END_TIMEOUT_S = 30.0


def _environment() -> dict[str, str]:
    """Nothing of this process but where the interpreter finds its libraries; the launcher drops that too."""
    libraries = {name: os.environ[name] for name in LIBRARY_PATHS if name in os.environ}
    return {"PYTHONHASHSEED": "0", "LD_BIND_NOW": "1", "LANG": "C.UTF-8", **libraries}


class SandboxError(RuntimeError):
    """The sandbox itself fails, whatever the program does. The message says how."""


class Sandbox:
    """One running sandbox. Use it as a context manager; leaving it ends everything inside."""

    def __init__(self, lifeline: socket.socket, when_ended: Callable[[], None]) -> None:
        self._lifeline, self._when_ended = lifeline, when_ended
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def cut(self) -> None:
        """Let everything inside be killed, from any thread and without waiting for it."""
        with suppress(OSError):  # it has ended already
            self._lifeline.shutdown(socket.SHUT_WR)

    def end(self) -> str:
        """Kill everything inside and wait until it is gone; returns why it could not be set up, if so.

        Raises:
            SandboxError: it does not end.
        """
        if self._ended:
            return ""
        self._ended = True
        self.cut()
        last = bytearray()
        self._lifeline.settimeout(_END_TIMEOUT_S)
        try:
            while part := self._lifeline.recv(4096):
                last += part
        except TimeoutError:
            raise SandboxError(f"a sandbox is still there {_END_TIMEOUT_S:g} s after its end") from None
        except ConnectionError:
            pass
        finally:
            self._lifeline.close()
            self._when_ended()
        return last.decode(errors="replace")


class Launcher:
    """The launcher process and the way to it.

    Args:
        limits: of each program.
        slots: sandboxes at one time at most, up to 255.
        hidden: folders that no program may read, although installed packages in general may be.

    Attributes:
        report: for each protection an empty text if it is active, else why it is not.

    Raises:
        SandboxError: it cannot be started.
    """

    def __init__(self, *, limits: Limits, slots: int, hidden: Sequence[Path] = ()) -> None:
        paths, packages = readable_paths()
        settings = Settings(
            limits=limits,
            slots=slots,
            paths=paths,
            hidden=seen_below(hidden, paths),
            packages=packages,
            use=USE,
        )
        self._lock = threading.Lock()
        self._running: set[Sandbox] = set()
        self._free_slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(slots):
            self._free_slots.put(slot)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.report = self._start(settings)
        if self.report["namespaces"] and (executable := shutil.which(bubblewrap.EXECUTABLE)):
            self._start_in_bubblewrap(executable, settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_in_bubblewrap(self, executable: str, settings: Settings) -> None:
        """Start again in bubblewrap; if that does not work, once more without, and say so."""
        refused = self.report["namespaces"]
        self.close()
        try:
            self.report = self._start(replace(settings, boxed=True), executable)
        except SandboxError as error:
            self.report = self._start(settings)
            self.report["namespaces"] = f"{refused}; in bubblewrap: {error}"

    def _start(self, settings: Settings, executable: str | None = None) -> dict[str, str]:
        self._control, theirs = socket.socketpair()
        with theirs:
            command = self._command(settings, theirs.fileno())
            if executable is not None:
                command = bubblewrap.wrap(executable, command, settings)
            self._log.seek(0)
            self._log.truncate()
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env=_environment(),
                start_new_session=True,
            )
        try:
            hello = wire.receive(self._control, 1 << 20, wire.until(time.monotonic() + _START_TIMEOUT_S))
        except (wire.Closed, wire.Late):
            self.close()
            raise SandboxError(f"the sandbox launcher does not start: {self._last_words()}") from None
        self._control.settimeout(None)
        return json.loads(hello)

    @staticmethod
    def _command(settings: Settings, control: int) -> list[str]:
        package = Path(__file__).parent
        boot = _BOOT.format(name=package.name)
        # Not -I: it would ignore PYTHONHASHSEED, which makes the order of sets the same in every run.
        flags = ["-S", "-s", "-P", "-B", "-X", "utf8"]
        return [sys.executable, *flags, "-c", boot, str(package), str(control), settings.dump()]

    def start(self, service: Service, sockets: Sequence[socket.socket]) -> Sandbox:
        """Start a sandbox. Waits while as many as there are slots are running.

        Args:
            service: what runs in it: "s" for standard input, "c" for calls, "j" for a judge, "r" for an
                interpreter.
            sockets: what the service talks on; closed here, for they are its own from now on.

        Raises:
            SandboxError: the launcher has gone.
        """
        lifeline, their_lifeline = socket.socketpair()
        slot = self._free_slots.get()
        ends = [their_lifeline, *sockets]
        sandbox = Sandbox(lifeline, lambda: self._forget(sandbox, slot))
        try:
            with self._lock:
                self._running.add(sandbox)
                order = service.encode() + bytes([slot])
                socket.send_fds(self._control, [order], [end.fileno() for end in ends])
        except OSError as error:
            lifeline.close()
            self._forget(sandbox, slot)
            raise SandboxError(f"the sandbox launcher has gone: {error}; {self._last_words()}") from None
        finally:
            for end in ends:
                end.close()
        return sandbox

    def _forget(self, sandbox: Sandbox, slot: int) -> None:
        with self._lock:
            self._running.discard(sandbox)
        self._free_slots.put(slot)

    @property
    def alive(self) -> bool:
        """Whether the launcher is there to start sandboxes."""
        return self._process.poll() is None

    def close(self) -> None:
        """End every sandbox and the launcher, and wait for it."""
        with self._lock:
            self._control.close()  # from here on no sandbox can be started
            for sandbox in self._running:
                sandbox.cut()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once. Keepers and what they keep die with it where the system knows how."""
        self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        code = self._process.poll()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"exit code {code}: {lines[-1] if lines else 'it said nothing'}"
