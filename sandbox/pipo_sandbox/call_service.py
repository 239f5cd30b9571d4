"""Loads a program once and calls what it defines, on orders of the other side of the socket.

All of it runs in the program's own process, which the program may do with as it likes: answers are
its answers, whoever in that process writes them. The other side reads them as plain
values and has what they should be; this side never sees it.

It says that it is ready and is told how many tests there will be and how long an answer may be. Orders
are nodes of ``values``, each answered by one of ``["value", node]``, ``["raise", type, text]``:

* ``["load", source]``: run the program as a module; it answers None.
* ``["function", name]``: the function, or the method of that name of a ``Solution()``.
* ``["name", name]``: what a global name stands for.
* ``["call", object, args, kwargs]``, ``["get", object, name]``, ``["set", object, name, value]``,
  ``["list", object]``, ``["len", object]``, ``["item", object, key]``, ``["true", object]``.

An object that is no plain value is answered as a handle and kept here.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from . import values, wire
from .confinement import Confinement, compile_program, fresh_module, one_line
from .processes import end_all
from .stopwatch import serve_meter

_MODULE = "program"
_MAX_ORDER = 1 << 30


def serve(sockets: Sequence[socket.socket], confinement: Confinement) -> None:
    """Serve one program until it ends or the other side has gone; the second socket asks what it uses."""
    channel, questions = sockets
    wire.send(channel, b"ready")
    runs, answer_bytes = wire.receive_terms(channel)

    def work() -> None:
        _Program(channel, answer_bytes).serve()

    pid = confinement.fork(work, keep=(channel.fileno(),), runs=runs)
    channel.close()
    serve_meter(questions, pid, alone=confinement.alone)
    end_all(confinement.scope)


class _Program:
    """The program as loaded, and the objects that the other side has handles of."""

    def __init__(self, channel: socket.socket, max_answer: int) -> None:
        self._channel, self._max_answer = channel, max_answer
        self._objects: list[Any] = []
        self._names: dict[str, Any] = {}
        self._solution: Any = None

    def serve(self) -> None:
        """Answer orders until the other side has gone."""
        while True:
            try:
                order = wire.receive(self._channel, _MAX_ORDER)
            except wire.Closed:
                return
            try:
                answer = values.dump(["value", self._obey(values.load(order))])
                if len(answer) > self._max_answer:
                    raise wire.WireError(f"a result of {len(answer)} bytes, more than {self._max_answer}")
            except BaseException as error:
                answer = values.dump(["raise", type(error).__name__, one_line(error)])
            wire.send(self._channel, answer)

    def _obey(self, order: values.Node) -> values.Node:
        kind, *arguments = (values.decode(node, self._object) for node in order)
        result = getattr(self, f"_on_{kind}")(*arguments)
        return values.encode(result, self._keep)

    def _object(self, handle: int) -> Any:
        return self._objects[handle]

    def _keep(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def _on_load(self, source: str) -> None:
        module = fresh_module(_MODULE)
        self._names = module.__dict__
        exec(compile_program(source), self._names)

    def _on_function(self, name: str) -> Any:
        solution = self._names.get("Solution")
        if isinstance(solution, type) and hasattr(solution, name):
            if self._solution is None:
                self._solution = solution()
            return getattr(self._solution, name)
        return self._on_name(name)

    def _on_name(self, name: str) -> Any:
        if name not in self._names:
            raise NameError(f"name {name!r} is not defined")
        return self._names[name]

    def _on_call(self, called: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return called(*args, **kwargs)

    def _on_get(self, owner: Any, name: str) -> Any:
        return getattr(owner, name)

    def _on_set(self, owner: Any, name: str, value: Any) -> None:
        setattr(owner, name, value)

    def _on_list(self, value: Any) -> list[Any]:
        return list(value)

    def _on_len(self, value: Any) -> int:
        return len(value)

    def _on_item(self, value: Any, key: Any) -> Any:
        return value[key]

    def _on_true(self, value: Any) -> bool:
        return bool(value)
