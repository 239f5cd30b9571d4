"""Runs a program once per input. Knows inputs and what was printed, never what should have been.

It says that it is ready. The program comes in the first frame; the answer is an empty frame, or
one with what is wrong with its syntax. Then each test is a frame, the order and the input, answered by
one: how it ended and what it has taken of its time, the end of what it wrote to the standard error stream,
and what it printed.

Input and output are memory files, so that nothing has to be drained while the program
runs, its size is limited by the kernel, and the interpreter is started and the program compiled once
for all inputs.
"""

from __future__ import annotations

import gc
import os
import random
import socket
from collections.abc import Sequence
from types import CodeType, ModuleType

from . import stdin_frames, wire
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
    with ChildWatch(channel.fileno()) as watch:
        while True:
            order = wire.receive(channel, _MAX_MESSAGE)
            wire.send(channel, _run_once(code, module, order, confinement, watch))


def _run_once(
    code: CodeType,
    module: ModuleType,
    order: bytes,
    confinement: Confinement,
    watch: ChildWatch,
) -> bytes:
    (seconds, wall_s, output_bytes), text = stdin_frames.read_order(order)
    files = [_memory_file() for _ in range(3)]
    try:
        _write(files[0], text)

        def work() -> None:
            run_and_exit(code, module)

        # Before the fork, after which what is touched has to be copied.
        random.seed()
        meter = Meter(alone=confinement.alone)
        before = meter.read(None)
        stopwatch = Stopwatch(lambda: meter.read(pid), before, seconds=seconds, wall_s=wall_s)
        pid = confinement.fork(work, streams=files, runs=1, file_bytes=output_bytes)
        try:
            status = wait_for(pid, watch, stopwatch)
        except Starved as problem:
            return stdin_frames.starved(str(problem))
        end_all(confinement.scope)
        confinement.clear()
        taken_s = stopwatch.taken_s if status is None else meter.read(None).used_s - before.used_s
        errors, printed = _read_end(files[2], _STDERR_TAIL), _read_end(files[1], output_bytes)
        return stdin_frames.ended(status, taken_s, errors, printed)
    finally:
        for descriptor in files:
            os.close(descriptor)


def _write(descriptor: int, data: memoryview) -> None:
    """Fill an empty file, which is left to be read from its beginning."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], done)


def _read_end(descriptor: int, limit: int) -> bytes:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    start = max(0, size - limit)
    return os.pread(descriptor, size - start, start)


def _memory_file() -> int:
    """A file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stream")
    name = "stream"
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(name)
    return descriptor
