"""``train.py`` and ``eval.py`` as processes: started anew, or out of one that has imported what they import.

To start Python and import torch costs more than most tests' runs. What most tests look at is what the program
does with its command line, its signals and its files; some start it anew, so that its imports are seen too.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parent.parent
_SERVER = multiprocessing.get_context("forkserver")
# Scoring first, so that its imports are seen to need none of training's. The last ones come on the way.
_SERVER.set_forkserver_preload(
    [
        "pipo.scoring",
        "pipo.training",
        "pipo.grading",
        "runpy",
        "evaluate",
        "transformers.models.qwen3.modeling_qwen3",
    ]
)


class Program:
    """A program that runs, with the methods of ``subprocess.Popen`` that tests use.

    Args:
        program: a file of the repository.
        arguments: after its name.
        cwd: the folder that it runs in.
        environment: variables beside those of the tests.
        start_new_session: whether it leads a session, and with it a group of processes.
    """

    def __init__(
        self,
        program: str,
        *arguments: str,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        self._said = tempfile.TemporaryDirectory()
        out, err = (Path(self._said.name, name) for name in ("out", "err"))
        given = environment_of_programs() | dict(environment or {})
        self._process = _SERVER.Process(
            target=_be,
            args=([str(ROOT / program), *arguments], str(cwd), given, str(out), str(err), start_new_session),
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its status, or the negative number of a signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The status, if it has ended."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the process alone."""
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for the end; what was printed, and the errors."""
        try:
            self._process.join()
        except BaseException:  # a test that is ended leaves nothing running
            self._process.kill()
            self._process.join()
            raise
        out, err = (Path(self._said.name, name).read_text() for name in ("out", "err"))
        self._said.cleanup()
        return out, err


def environment_of_programs() -> dict[str, str]:
    """The tests' own, without an account that results could be sent to."""
    kept = {k: v for k, v in os.environ.items() if k not in ("WANDB_API_KEY", "WANDB_MODE")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def _be(
    argv: list[str], cwd: str, environment: dict[str, str], out: str, err: str, start_new_session: bool
) -> NoReturn:
    """Become the program, in a process that was forked for it."""
    if start_new_session:
        os.setsid()
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    searched = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:0] = [str(Path(argv[0]).parent), *searched]
    code = 0
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:  # as the interpreter does at its end
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(
    program: str, *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Status, what was printed, and the errors."""
    process = Program(program, *arguments, cwd=cwd, environment=environment)
    out, err = process.communicate()
    assert process.returncode is not None
    return process.returncode, out, err


def run_anew(
    program: str, *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """The same, of a program that Python starts with."""
    done = subprocess.run(
        [sys.executable, str(ROOT / program), *arguments],
        cwd=cwd,
        env=environment_of_programs() | dict(environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def end_server() -> None:
    """End the process that programs are forked from, if there is one, and wait for it."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
