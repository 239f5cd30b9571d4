"""Checkpoints on disk: what is noticed when they are damaged, which stay, which one a run goes on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.callbacks.disk_room import NeededBytes, needed_bytes, room_problem
from pipo.errors import ConfigError, RunFailed
from pipo.runs import checkpoints
from pipo.runs.checkpoints import DamagedCheckpoint, Manifest
from pipo.runs.run_folder import newest_checkpoint
from tests import toy


def write(folder: Path, iterations: int, accuracy: float | None = None, sharded: bool = False) -> Path:
    """A checkpoint as ``IterationCheckpoint`` leaves it, with other content."""
    target = folder / checkpoints.checkpoint_name(iterations)
    partial = checkpoints.partial_path(target)
    partial.mkdir(parents=True)
    if sharded:
        (partial / "state").mkdir()
        for rank in range(2):
            (partial / f"state/__{rank}_0.distcp").write_bytes(random.Random(rank).randbytes(500))
    else:
        (partial / "state").write_bytes(random.Random(iterations).randbytes(1000))
    files = checkpoints.mark_files(partial, checkpoints.state_files(partial))
    manifest = Manifest(iterations=iterations, processes=1, accuracy=accuracy, files=files)
    checkpoints.commit(partial, target, manifest)
    return target


@pytest.mark.parametrize("sharded", [False, True])
def test_a_checkpoint_is_what_was_written(tmp_path, sharded):
    target = write(tmp_path, 3, accuracy=0.25, sharded=sharded)
    manifest = checkpoints.verify(target)
    assert (manifest.iterations, manifest.processes, manifest.accuracy) == (3, 1, 0.25)
    assert sum(mark.bytes for mark in manifest.files.values()) == 1000
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path, sharded):
    target = write(tmp_path, 3, accuracy=0.25, sharded=sharded)
    expected, chance = checkpoints.verify(target), random.Random(0)
    for path in sorted(p for p in target.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for _ in range(100):
            damaged = bytearray(whole)
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            if path.name == checkpoints.MANIFEST:
                # Between two words of JSON, one kind of white space may have become another.
                with contextlib.suppress(DamagedCheckpoint):
                    assert checkpoints.verify(target) == expected
            else:
                with pytest.raises(DamagedCheckpoint, match=path.name):
                    checkpoints.verify(target)
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["state", checkpoints.MANIFEST])
def test_a_file_that_is_cut_or_gone_is_named(tmp_path, name):
    path = write(tmp_path, 3) / name
    whole = path.read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedCheckpoint, match=name):
            checkpoints.verify(path.parent)
    path.unlink()
    with pytest.raises(DamagedCheckpoint, match=f"{name}: is missing"):
        checkpoints.verify(path.parent)


def test_a_checkpoint_under_another_ones_name_is_refused(tmp_path):
    write(tmp_path, 3).rename(tmp_path / checkpoints.checkpoint_name(4))
    with pytest.raises(DamagedCheckpoint, match="written after 3 iterations"):
        checkpoints.verify(tmp_path / checkpoints.checkpoint_name(4))


def test_the_newest_and_the_best_stay(tmp_path):
    accuracies = {1: 0.1, 2: 0.4, 3: None, 4: 0.4, 5: 0.2, 6: None}
    for iterations, accuracy in accuracies.items():
        write(tmp_path, iterations, accuracy)
        checkpoints.prune(tmp_path, keep=2, keep_best=True)
    # 2 and 4 are equally accurate: the older is the best, because nothing was gained after it.
    assert [checkpoints.iterations_of(p) for p in checkpoints.finished_checkpoints(tmp_path)] == [2, 5, 6]
    assert (tmp_path / checkpoints.BEST).resolve() == tmp_path / checkpoints.checkpoint_name(2)
    write(tmp_path, 7, 0.5)
    checkpoints.prune(tmp_path, keep=2, keep_best=True)
    assert (tmp_path / checkpoints.BEST).resolve().name == checkpoints.checkpoint_name(7)
    checkpoints.prune(tmp_path, keep=1, keep_best=False)
    assert [checkpoints.iterations_of(p) for p in checkpoints.finished_checkpoints(tmp_path)] == [7]


def test_what_a_killed_save_left_is_no_checkpoint_and_is_swept(tmp_path):
    whole = write(tmp_path, 2)
    partial = checkpoints.partial_path(tmp_path / checkpoints.checkpoint_name(4))
    partial.mkdir()
    (partial / "state").write_bytes(b"half")
    checkpoints.partial_path(tmp_path / checkpoints.BEST).symlink_to(whole.name)
    assert checkpoints.finished_checkpoints(tmp_path) == [whole]
    checkpoints.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]


def damage(checkpoint: Path) -> None:
    content = bytearray((checkpoint / "state").read_bytes())
    content[500] ^= 1
    (checkpoint / "state").write_bytes(content)


def test_a_damaged_newest_is_named_and_the_one_before_it_is_taken(tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    older, newer, newest = write(folder, 2), write(folder, 4), write(folder, 6)
    damage(newest)
    (newer / "state").write_bytes(b"cut")
    assert (
        newest_checkpoint(tmp_path, leads=False) == older
    )  # another process chooses alike and moves nothing
    assert newest.exists()
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path, leads=True) == older
    first, second = (record.getMessage() for record in caplog.records)
    assert f"{newest}/state: has another SHA-256" in first
    assert f"{newer}/state: has 3 bytes instead of 1000" in second
    assert all("goes on from iteration_000002.ckpt" in message for message in (first, second))
    assert sorted(p.name for p in folder.iterdir()) == [
        "damaged_iteration_000004.ckpt",
        "damaged_iteration_000006.ckpt",
        "iteration_000002.ckpt",
    ]
    assert newest_checkpoint(tmp_path, leads=True) == older


def test_without_any_whole_checkpoint_nothing_is_moved(tmp_path):
    assert newest_checkpoint(tmp_path, leads=True) is None
    only = write(tmp_path / "checkpoints", 2)
    damage(only)
    with pytest.raises(ConfigError, match=r"no checkpoint is whole; .*state: has another SHA-256"):
        newest_checkpoint(tmp_path, leads=True)
    assert only.exists()


def test_an_accuracy_that_was_tampered_with_does_not_make_a_best(tmp_path):
    best, other = write(tmp_path, 1, 0.3), write(tmp_path, 2, 0.2)
    content = json.loads((other / checkpoints.MANIFEST).read_text())
    (other / checkpoints.MANIFEST).write_text(json.dumps({**content, "accuracy": 0.9}))
    checkpoints.prune(tmp_path, keep=2, keep_best=True)
    assert (tmp_path / checkpoints.BEST).resolve() == best


def test_a_file_is_hashed_as_it_is_written(tmp_path, monkeypatch):
    """What ``torch.save`` hands over is all that is in the file, and it is not read again for its hash."""
    state = {"weights": torch.arange(100_000.0), "count": 3, "view": torch.arange(10)[::2]}
    with (tmp_path / "state").open("wb") as file:
        hashed = checkpoints.HashedFile(file)
        torch.save(state, hashed)
    content = (tmp_path / "state").read_bytes()
    assert hashed.mark == checkpoints.FileMark(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert checkpoints.mark_files(tmp_path, ["state"], {"state": hashed.mark}) == {"state": hashed.mark}


def test_the_room_that_a_run_needs_is_what_it_takes(tmp_path):
    """What the files hold besides tensors does not grow with the model: some 50 kB, here beside 205."""
    saving = IterationCheckpoint(folder=str(tmp_path / "checkpoints"), every=1, keep=2, best=False)
    model = toy.module()
    toy.fit(model, [saving], 2)
    needed = needed_bytes(model, copies=3)
    sizes = [
        sum(mark.bytes for mark in checkpoints.verify(path).files.values())
        for path in checkpoints.finished_checkpoints(saving.folder)
    ]
    assert len(sizes) == 2
    assert all(needed.checkpoint <= size <= 1.5 * needed.checkpoint for size in sizes)
    assert needed.model == 4 * sum(p.numel() for p in model.policy.parameters())
    assert room_problem(saving.folder, needed) is None
    # A thousand times what any disk has; what lies there already does not count as taken.
    many = NeededBytes(checkpoint=10**18, copies=3, model=10**18)
    said = room_problem(saving.folder, many)
    assert said is not None
    assert "3 checkpoints of 1000000000.0 GB at a time" in said
    assert "checkpoint.keep" in said


def test_a_run_without_room_is_refused_before_its_first_iteration(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6 - 1, 1))
    saving = IterationCheckpoint(folder=str(tmp_path / "checkpoints"), every=1, keep=2, best=True)
    record = toy.Record()
    with pytest.raises(RunFailed, match=r"no room for 4 checkpoints of .* 0\.0 GB are free"):
        toy.fit(toy.module(), [record, saving], 1)
    assert not record.batches
