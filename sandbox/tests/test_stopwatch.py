"""Time that a program takes for itself, told from time that it is kept waiting, on readings made by hand."""

from __future__ import annotations

import pytest
from pipo_sandbox import stopwatch as module
from pipo_sandbox.stopwatch import Reading, Starved, Stopwatch

# A reading: the time by the clock, the processor time used by then, whether the program is asleep.
Look = tuple[float, float, bool]


def taken(
    monkeypatch: pytest.MonkeyPatch, looks: list[Look], *, seconds: float, wall_s: float
) -> list[float]:
    """What counts as taken after each look, up to the one where the time is up."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    readings = iter(looks)

    def read() -> Reading:
        clock[0], used_s, asleep = next(readings)
        return Reading(used_s=used_s, asleep=asleep)

    watch = Stopwatch(read, read(), seconds=seconds, wall_s=wall_s)
    found: list[float] = []
    for _ in looks[1:]:
        goes_on = watch.look()
        found.append(round(watch.taken_s, 6))
        if not goes_on:
            break
    return found


def test_waiting_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # A tenth of a processor: 2 s of work in 20 s.
    looks = [(0.25 * n, 0.025 * n, False) for n in range(81)]
    assert taken(monkeypatch, looks, seconds=3.0, wall_s=30.0)[-1] == 2.0


def test_work_counts_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [(1.0 + 0.25 * n, 7.0 + 0.25 * n, False) for n in range(9)]  # an earlier test had used 7 s
    assert taken(monkeypatch, looks, seconds=1.0, wall_s=30.0) == [0.25, 0.5, 0.75, 1.0]


def test_sleep_counts_from_the_first_look_that_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [(0.0, 0.0, False), (0.25, 0.2, True), (0.5, 0.2, True), (0.75, 0.3, True), (1.0, 0.3, False)]
    # 0.25 s asleep, then 0.25 s of which 0.1 s were work, then none: it was found at work.
    assert taken(monkeypatch, looks, seconds=9.0, wall_s=30.0) == [0.2, 0.45, 0.7, 0.7]


def test_a_watcher_that_was_kept_from_looking_counts_little_as_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [(0.0, 0.0, False), (0.25, 0.0, True), (20.0, 0.0, True)]
    assert taken(monkeypatch, looks, seconds=9.0, wall_s=30.0) == [0.0, 0.5]


def test_far_past_its_time_the_machine_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [(10.0 * n, 0.5 * n, False) for n in range(9)]
    with pytest.raises(Starved, match=r"too busy: in 30 s the program got 1\.5 of its 3 s"):
        taken(monkeypatch, looks, seconds=3.0, wall_s=30.0)
