"""A test and its report arrive as they were sent, and nothing else counts as a report."""

from __future__ import annotations

import pytest
from pipo_sandbox import WireError, stdin_frames
from pipo_sandbox.stopwatch import Starved


def test_an_order_arrives_as_it_was_sent() -> None:
    order = stdin_frames.write_order(b"7\n\0", seconds=0.5, wall_s=60.0, output_bytes=1 << 20)
    limits, text = stdin_frames.read_order(order)

    assert (limits, bytes(text)) == ((0.5, 60.0, 1 << 20), b"7\n\0")


@pytest.mark.parametrize("status", [None, 0, 1, -9])
def test_a_report_arrives_as_it_was_sent(status: int | None) -> None:
    report = stdin_frames.ended(status, 0.25, b"an error", b"what was printed")

    assert stdin_frames.read_report(report) == (status, 0.25, b"an error", b"what was printed")


def test_a_test_that_could_not_be_judged_says_why() -> None:
    with pytest.raises(Starved, match="too busy"):
        stdin_frames.read_report(stdin_frames.starved("the machine is too busy"))


@pytest.mark.parametrize("frame", [b"", b"e", b"[true]"])
def test_anything_else_is_no_report(frame: bytes) -> None:
    with pytest.raises(WireError, match="malformed report"):
        stdin_frames.read_report(frame)
