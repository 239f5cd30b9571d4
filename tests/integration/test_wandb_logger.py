"""The W&B run of a run folder: the same one after a resume, and a server that cannot be reached."""

from __future__ import annotations

import json
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from pipo.wandb_logger import WandbRunLogger


@pytest.fixture(autouse=True)
def fresh_session(monkeypatch):
    """W&B reads its environment once per session, and Lightning writes to it."""
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()
    yield
    wandb.teardown()


def logger(folder: Path, *, offline: bool = True, init_timeout: float = 20.0) -> WandbRunLogger:
    return WandbRunLogger(
        save_dir=str(folder), project="pipo", offline=offline, init_timeout=init_timeout, finish_timeout=20.0
    )


def records(content: bytes) -> Iterator[bytes]:
    """W&B's file: after its own header of 7 bytes, records in the format of LevelDB's log."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:  # the rest of a block, too short for the header of a record
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def read_back(folder: Path) -> tuple[str, list[dict[str, float]]]:
    """The run's id and its rows, from what W&B wrote in one of its folders."""
    (path,) = folder.glob("run-*.wandb")
    identity, rows = "", []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            identity = record.run.run_id
        if record.HasField("history"):
            items = record.history.item
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return identity, rows


def test_a_resumed_run_is_the_same_one_in_a_second_folder(tmp_path):
    first = logger(tmp_path)
    for step in range(3):
        first.log_metrics({"reward": step / 10}, step=step)
    first.finalize("failed")
    second = logger(tmp_path)
    for step in range(2, 5):
        second.log_table("samples", columns=["text"], data=[["a"]], step=step)
        second.log_metrics({"reward": step / 10}, step=step)
    second.finalize("success")
    before, after = sorted(p for p in (tmp_path / "wandb").glob("offline-run-*") if p.is_dir())
    identity = (tmp_path / "wandb_id.txt").read_text().strip()
    found = [read_back(before), read_back(after)]
    assert [each for each, _ in found] == [identity, identity]
    steps = [[(row["_step"], row["reward"]) for row in rows] for _, rows in found]
    # Iteration 2 is in both with one value and one step, so uploading both gives it once.
    assert steps == [[(0, 0.0), (1, 0.1), (2, 0.2)], [(2, 0.2), (3, 0.3), (4, 0.4)]]
    assert all("samples/_type" in row or "samples" in row for row in found[1][1])


@pytest.mark.slow
def test_a_server_that_does_not_answer_does_not_keep_the_run_from_training(tmp_path, monkeypatch, caplog):
    with socket.socket() as deaf:  # takes connections and says nothing
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        unreachable = logger(tmp_path, offline=False, init_timeout=1.0)
        with caplog.at_level(logging.WARNING):
            unreachable.log_metrics({"reward": 0.5}, step=0)
        unreachable.finalize("success")
    assert "W&B cannot be reached" in caplog.text
    assert "wandb sync" in caplog.text
    (folder,) = (p for p in (tmp_path / "wandb").glob("offline-run-*") if p.is_dir())
    identity, rows = read_back(folder)
    assert identity == (tmp_path / "wandb_id.txt").read_text().strip()
    assert [row["reward"] for row in rows] == [0.5]
