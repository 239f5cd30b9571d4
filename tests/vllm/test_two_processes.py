"""Sharded weights on two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

PROGRAM = Path(__file__).parent / "two_shards.py"


def test_sharded_weights_are_put_together_for_the_engine_of_each_rank(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(port), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for rank in range(2):
        (first, expected), (second, expected_then) = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert first == expected
        assert second == expected_then != first
