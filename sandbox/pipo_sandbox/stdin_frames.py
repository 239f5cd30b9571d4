"""Frames in which the trusted side and ``stdin_service`` tell each other of a test and what became of it.

Written by hand, not as JSON: each test takes a fork, after which every page of memory that a coder touches
has to be copied.
"""

from __future__ import annotations

import struct

from .stopwatch import Starved
from .wire import WireError

_ORDER = struct.Struct("!ddI")
_REPORT = struct.Struct("!c?idI")
_ENDED, _STARVED = b"e", b"s"


def write_order(text: bytes, *, seconds: float, wall_s: float, output_bytes: int) -> bytes:
    """What one test is to do; arguments as for ``sessions.StdinProgram.run``."""
    return _ORDER.pack(seconds, wall_s, output_bytes) + text


def read_order(frame: bytes) -> tuple[tuple[float, float, int], memoryview]:
    """Seconds, those by the clock and bytes of output that it may take; its standard input."""
    return _ORDER.unpack_from(frame), memoryview(frame)[_ORDER.size :]


def ended(status: int | None, taken_s: float, errors: bytes, printed: bytes) -> bytes:
    """How a test came to an end; arguments as ``sessions.Ended`` explains them."""
    return _REPORT.pack(_ENDED, status is not None, status or 0, taken_s, len(errors)) + errors + printed


def starved(problem: str) -> bytes:
    """That a test could not be judged."""
    return _REPORT.pack(_STARVED, False, 0, 0.0, 0) + problem.encode()


def read_report(frame: bytes) -> tuple[int | None, float, bytes, bytes]:
    """What ``ended`` was given.

    Raises:
        Starved: the machine was too busy to judge the test.
        WireError: it is no report.
    """
    if len(frame) < _REPORT.size:
        raise WireError("a malformed report")
    kind, has_status, status, taken_s, size = _REPORT.unpack_from(frame)
    rest = frame[_REPORT.size :]
    if kind == _STARVED:
        raise Starved(rest.decode("utf-8", "replace"))
    return status if has_status else None, taken_s, rest[:size], rest[size:]
