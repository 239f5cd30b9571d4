"""Worker program that calls reward functions of the user's own; see ``worker_pool``.

Run as a file, it imports nothing of the project, so that it starts fast and loads torch only if a function
does. ``argv[3]`` is the JSON object ``{"functions": ["my_rewards.py:exact", ...], "path": [...]}``: the
functions, and where Python looks for modules besides.

A request is pickled: None asks what the functions are called and take; else it is a mapping with the number
of a ``function`` and the ``arguments`` to call it with, lists of equal lengths. A reply is JSON. Of the
second kind: ``rewards``, one for each response, null where the function does not apply; ``errors`` likewise,
why it raised; ``noted``, column -> values, what it gave to ``log_extra``; ``printed``, what it printed, and
gave to ``log_metric``; ``refused``, why what it returned is no list of rewards; ``source``, the hash of its
file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import io
import json
import math
import pickle
import random
import signal
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Of what a call printed, the end.
_PRINTED_CHARS = 2000


class NotThere(Exception):
    """There is no such function."""


class BadReturn(Exception):
    """What a function returned is not one reward per response."""


def load(spec: str) -> Callable[..., Any]:
    """The function behind ``file.py:name`` or ``package.module:name``.

    Raises:
        NotThere: there is none; the message says what is missing.
    """
    place, _, name = spec.rpartition(":")
    if place.endswith(".py"):
        file = Path(place).expanduser().resolve()
        if not file.is_file():
            raise NotThere("there is no such file")
        sys.path.insert(0, str(file.parent))  # for what it imports from beside it
        alias = f"reward file {file}"  # a name of its own: there may be a module of the library called so
        if alias not in sys.modules:
            made = importlib.util.spec_from_file_location(alias, file)
            assert made is not None
            assert made.loader is not None
            sys.modules[alias] = importlib.util.module_from_spec(made)
            made.loader.exec_module(sys.modules[alias])
        module = sys.modules[alias]
    else:
        module = importlib.import_module(place)
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if inspect.isclass(found):
        raise NotThere(f"{name!r} is a class; name a function, or an object of the class")
    if callable(found):
        return found
    own = sorted(
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    )
    has = f"; it has {', '.join(own)}" if own else ""
    raise NotThere(f"{name!r} is no function there{has}")


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call gives something to wait for; also of an object with such a ``__call__``."""
    plain = _plain(function)
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(getattr(plain, "__call__", None))  # noqa: B004


def described(function: Callable[..., Any]) -> dict[str, Any]:
    """Name, arguments and source of a function."""
    plain = _plain(function)
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {
        "name": getattr(plain, "__name__", type(plain).__name__),
        "takes": None if any(p.kind is p.VAR_KEYWORD for p in parameters) else [p.name for p in named],
        "needs": [p.name for p in named if p.default is p.empty],
        "source": _source(plain),
    }


def _source(plain: Callable[..., Any]) -> str:
    """The hash of the file that a function, or the class of an object, is written in."""
    with contextlib.suppress(OSError, TypeError):
        file = inspect.getsourcefile(plain if inspect.isroutine(plain) else type(plain))
        if file is not None:
            return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return ""


def numbers(found: Any, count: int) -> list[float | None]:
    """Rewards as plain numbers; None, like NaN, where a function does not apply.

    Raises:
        BadReturn: saying what it is instead.
    """
    if isinstance(found, str | bytes | dict) or not hasattr(found, "__iter__"):
        raise BadReturn(f"it must return a list of {count} numbers, got {type(found).__name__} {found!r:.40}")
    listed = list(found)
    if len(listed) != count:
        raise BadReturn(f"it must return a reward for each of {count} responses, got {len(listed)}")
    return [_number(value, place) for place, value in enumerate(listed)]


def _number(value: Any, place: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, str | bytes):
        raise BadReturn(f"it must return numbers, got {value!r:.40} for response {place}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadReturn(f"it must return numbers, got {value!r:.40} for response {place}") from error
    if math.isinf(number):
        raise BadReturn(f"it must return finite numbers, got {number} for response {place}")
    return None if math.isnan(number) else number


class Calls:
    """Calls the functions.

    Args:
        functions: by their place on the command line.
        cpu_s: seconds of processor time for one call.
    """

    def __init__(self, functions: list[Callable[..., Any]], cpu_s: float) -> None:
        self._functions, self._cpu_s = functions, cpu_s
        self.described = [described(function) for function in functions]

    def answer(self, number: int, arguments: dict[str, list[Any]], seed: int) -> dict[str, Any]:
        """Rewards of some responses, from one call; or, when that raises, from a call for each of them."""
        count = len(arguments["completions"])
        noted: dict[str, list[Any]] = {}
        reply: dict[str, Any] = {"refused": None, "source": self.described[number]["source"]}
        errors: list[str | None] = [None] * count
        rewards: list[float | None] = [None] * count
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                try:
                    rewards = self._call(number, arguments, noted, seed)
                except BadReturn:
                    raise
                except Exception as error:
                    errors, noted = [_said(error)], {}
                    if count > 1:
                        rewards, errors = self._one_by_one(number, arguments, count, seed)
            except BadReturn as error:
                reply["refused"] = str(error)
        columns = {name: list(map(_simple, values)) for name, values in noted.items() if len(values) == count}
        return reply | {
            "rewards": rewards,
            "errors": errors,
            "noted": columns,
            "printed": printed.getvalue()[-_PRINTED_CHARS:],
        }

    def _one_by_one(
        self, number: int, arguments: dict[str, list[Any]], count: int, seed: int
    ) -> tuple[list[float | None], list[str | None]]:
        rewards: list[float | None] = []
        errors: list[str | None] = []
        for row in range(count):
            try:
                single = {name: [values[row]] for name, values in arguments.items()}
                rewards += self._call(number, single, {}, seed)
                errors.append(None)
            except BadReturn:
                raise
            except Exception as error:
                rewards.append(None)
                errors.append(_said(error))
        return rewards, errors

    def _call(
        self,
        number: int,
        arguments: dict[str, list[Any]],
        noted: dict[str, list[Any]],
        seed: int,
    ) -> list[float | None]:
        """One call, with its time and its random numbers of its own."""
        random.seed(seed)
        if (numpy := sys.modules.get("numpy")) is not None:
            numpy.random.seed(seed)
        given = {**arguments, "log_extra": lambda column, values: noted.update({str(column): list(values)})}
        given["log_metric"] = lambda name, value: print(f"{name} = {value}")
        called, takes = self._functions[number], self.described[number]["takes"]
        given = given if takes is None else {name: value for name, value in given.items() if name in takes}
        with _limited(self._cpu_s):
            found = called(**given)
            if is_async(called):
                import asyncio  # takes as long as all else here

                found = asyncio.run(found)
            return numbers(found, len(arguments["completions"]))


@contextlib.contextmanager
def _limited(cpu_s: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _simple(value: Any) -> Any:
    """What JSON can write; of anything else its text."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _said(error: BaseException) -> str:
    """An error with the line of the function's own file that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [f for f in frames if f.filename != __file__ and not f.filename.startswith("<frozen")]
    where = f" ({Path(frames[0].filename).name}, line {frames[0].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{where}"


def loaded(specs: list[str], cpu_s: float) -> tuple[Calls, str | None]:
    """The functions, and why one of them cannot be had."""
    found = []
    for spec in specs:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found.append(load(spec))
        except NotThere as error:
            return Calls([], cpu_s), f"{spec}: {error}"
        except BaseException as error:  # also SystemExit, of a module that ends its program
            return Calls([], cpu_s), f"{spec}: it cannot be imported, {_said(error)}"
    return Calls(found, cpu_s), None


def main() -> None:
    """Answer requests until the other end closes the socket."""
    connection, cpu_s = Connection(int(sys.argv[1])), float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends us, in the middle of native code too
    with contextlib.suppress(OSError):  # where memory runs out, this one goes and not the run
        Path("/proc/self/oom_score_adj").write_text("1000")
    options = json.loads(sys.argv[3])
    sys.path += [entry for entry in options["path"] if entry not in sys.path]
    calls, problem = loaded(options["functions"], cpu_s)
    connection.send_bytes(b"ready")
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        request = pickle.loads(message)
        if request is None:
            reply: Any = {"problem": problem, "functions": calls.described}
        elif problem is not None:  # the file was sound when the run began
            reply = {"refused": f"it cannot be loaded any more, {problem}"}
        else:
            reply = calls.answer(request["function"], request["arguments"], zlib.crc32(message))
        connection.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    main()
