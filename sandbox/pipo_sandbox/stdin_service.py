"""Runs a program once per input. Knows inputs and what was printed, never what should have been.

It says that it is ready. The program comes in the first frame; the answer is an empty frame, or
one with what is wrong with its syntax. Then each test is two frames, the order (JSON) and the
input, answered by three: how it ended and what it has taken of its time, what it printed, and the
end of what it wrote to the standard error stream.

Input and output are memory files, so that nothing has to be drained while the program
runs, its size is limited by the kernel, and the interpreter is started and the program compiled once
for all inputs.
"""

from __future__ import annotations

import gc
import json
import os
import random
import socket
import tempfile
from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import Any

from . import values, wire
from .confinement import Confinement, compile_program, fresh_module, open_streams, run_and_exit
from .processes import ChildWatch, end_all
from .stopwatch import Meter, Starved, Stopwatch, wait_for

_STDERR_TAIL = 4096
_MAX_MESSAGE = 1 << 30


def serve(sockets: Sequence[socket.socket], confinement: Confinement) -> None:
    """Serve one program until the other side has gone."""
    (channel,) = sockets
    wire.send(channel, b"ready")
    source = wire.receive(channel, _MAX_MESSAGE).decode("utf-8", "surrogatepass")
    try:
        code = compile_program(source)
    except Exception as error:  # also ValueError, MemoryError, RecursionError: all are the program's
        where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        wire.send(channel, f"{type(error).__name__}: {text}{where}".encode("utf-8", "replace"))
        return
    wire.send(channel, b"")
    # All that each run needs anew is made once here, for a child gets a copy: on other files than these.
    for descriptor in range(3):
        file = _memory_file()
        os.dup2(file, descriptor)
        os.close(file)
    open_streams()
    module = fresh_module("__main__")
    gc.freeze()  # a collection in a child would touch, and so copy, every page with an object
    with ChildWatch() as watch:
        while True:
            order = json.loads(wire.receive(channel, _MAX_MESSAGE))
            text = wire.receive(channel, _MAX_MESSAGE)
            _run_once(code, module, text, order, channel, confinement, watch)


def _run_once(
    code: CodeType,
    module: ModuleType,
    text: bytes,
    order: dict[str, Any],
    channel: socket.socket,
    confinement: Confinement,
    watch: ChildWatch,
) -> None:
    files = [_memory_file() for _ in range(3)]
    try:
        with open(files[0], "wb", closefd=False) as stdin:
            stdin.write(text)
        os.lseek(files[0], 0, os.SEEK_SET)

        def work() -> None:
            random.seed()
            run_and_exit(code, module)

        meter = Meter(alone=confinement.alone)
        before = meter.read(None)
        pid = confinement.fork(work, streams=files, runs=1, file_bytes=order["output_bytes"])
        limits = {"seconds": order["seconds"], "wall_s": order["wall_s"]}
        stopwatch = Stopwatch(lambda: meter.read(pid), before, **limits)
        try:
            status = wait_for(pid, watch, stopwatch, channel)
        except Starved as problem:
            wire.send(channel, values.dump(["starved", str(problem)]))
            return
        end_all(confinement.scope)
        confinement.clear()
        taken_s = stopwatch.taken_s if status is None else meter.read(None).used_s - before.used_s
        wire.send(channel, values.dump(["ended", status, taken_s]))
        for descriptor, limit in ((files[1], None), (files[2], _STDERR_TAIL)):
            size = os.fstat(descriptor).st_size
            start = 0 if limit is None else max(0, size - limit)
            wire.send(channel, os.pread(descriptor, size - start, start))
    finally:
        for descriptor in files:
            os.close(descriptor)


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stream")
    with tempfile.TemporaryFile(dir=".") as file:
        return os.dup(file.fileno())
