"""Length-prefixed frames between processes that do not trust each other, with deadlines."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

_HEADER = struct.Struct("!I")
_TERMS = struct.Struct("!II")


class WireError(Exception):
    """A value that cannot be written, or a message that is no value."""


class Closed(Exception):
    """The other side has gone."""


class Late(Exception):
    """The other side has not answered in time."""


Patience = Callable[[], float]
"""Asked before each wait: how many seconds it may take, at least a little. It raises ``Late`` to give up."""


def until(deadline: float) -> Patience:
    """Patience that ends at a moment on the monotonic clock."""

    def wait_s() -> float:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Late
        return left_s

    return wait_s


def send(sock: socket.socket, data: bytes, patience: Patience | None = None) -> None:
    """Send one frame.

    Args:
        sock: a connected stream socket.
        data: the content.
        patience: how long to wait for the other side to read; None to wait for ever.

    Raises:
        Closed: nobody is there to read it.
        Late: the patience has ended.
    """
    left = memoryview(_HEADER.pack(len(data)) + data)
    while left:
        sock.settimeout(None if patience is None else patience())
        try:
            left = left[sock.send(left) :]
        except TimeoutError:
            continue
        except OSError as error:
            raise Closed(str(error)) from None


def receive(sock: socket.socket, limit: int, patience: Patience | None = None) -> bytes:
    """Receive one frame.

    Args:
        sock: a connected stream socket.
        limit: bytes at most.
        patience: how long to wait; None to wait for ever.

    Raises:
        Closed: the other side has gone.
        Late: the patience has ended.
        WireError: the frame is longer than the limit.
    """
    (size,) = _HEADER.unpack(_receive_exactly(sock, _HEADER.size, patience))
    if size > limit:
        raise WireError(f"a message of {size} bytes, more than {limit}")
    return _receive_exactly(sock, size, patience)


def _receive_exactly(sock: socket.socket, size: int, patience: Patience | None) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        sock.settimeout(None if patience is None else patience())
        try:
            part = sock.recv(min(size - len(parts), 1 << 20))
        except TimeoutError:
            continue
        except OSError as error:
            raise Closed(str(error)) from None
        if not part:
            raise Closed("end of stream")
        parts += part
    return bytes(parts)


def send_terms(sock: socket.socket, runs: int, limit: int, patience: Patience | None = None) -> None:
    """Tell a service how many steps it has at most, and how much it may say to each."""
    send(sock, _TERMS.pack(runs, limit), patience)


def receive_terms(sock: socket.socket) -> tuple[int, int]:
    """What ``send_terms`` was given."""
    runs, limit = _TERMS.unpack(receive(sock, _TERMS.size))
    return runs, limit
