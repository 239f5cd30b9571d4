"""samples.jsonl: readable, and read back as it was, whatever a crash left at its end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipo.evaluation.results import ProblemResult, Sample
from pipo.evaluation.samples_file import append_samples, recover_samples
from pipo.records.problems import Message


def problem(index: int) -> ProblemResult:
    samples = tuple(
        Sample(
            response=f"π ≈ 3\u2028\n#{index}",
            score=score,
            answer=None if score else "3",
            error=None if score == 1 else "worker killed",
            finished=True,
            length=8,
            infrastructure=score < 1,
        )
        for score in (1.0, 1 / 3)
    )
    return ProblemResult(
        index=index, uid=f"p{index}", level="1", prompt="π?", answer="3", samples=samples, majority=1 / 3
    )


def test_turns_of_a_conversation_are_kept_and_read_back(tmp_path: Path) -> None:
    said = (
        Message(role="assistant", content="<call>"),
        Message(role="tool", content="7\n"),
        Message(role="assistant", content="7"),
    )
    plain = problem(0)
    spoken = replace(plain, samples=(replace(plain.samples[0], messages=said), plain.samples[1]))
    append_samples(tmp_path / "samples.jsonl", "easy", [spoken])
    first, second = json.loads((tmp_path / "samples.jsonl").read_text())["samples"]
    assert first["messages"][1] == {"role": "tool", "content": "7\n"}
    assert "messages" not in second
    assert recover_samples(tmp_path / "samples.jsonl", {"easy": 1}, 1) == {"easy": [spoken]}


SIZES = {"easy": 5, "hard": 3}  # in batches of two: 2 2 1, 2 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Everything of the first part and one batch of the second."""
    path = tmp_path / "samples.jsonl"
    for batch in ([0, 1], [2, 3], [4]):
        append_samples(path, "easy", [problem(i) for i in batch])
    append_samples(path, "hard", [problem(0), problem(1)])
    return path


def test_a_readable_line_per_problem(path: Path) -> None:
    lines = path.read_bytes().decode().split("\n")
    assert len(lines) == 7 + 1
    assert "π ≈ 3" in lines[0]
    record = json.loads(lines[5])
    assert list(record) == [
        *("part", "index", "uid", "level", "solved", "majority", "prompt", "answer", "samples")
    ]
    assert (record["part"], record["index"], record["solved"]) == ("hard", 0, "1/2")
    assert record["samples"][0] == {
        "response": "π ≈ 3\u2028\n#0",
        "score": 1.0,
        "answer": None,
        "error": None,
        "finished": True,
        "length": 8,
        "infrastructure": False,
    }


def test_what_was_written_is_read_back(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    found = recover_samples(path, SIZES, batch=2)
    assert found == {"easy": [problem(i) for i in range(5)], "hard": [problem(0), problem(1)]}
    assert path.read_bytes() == content
    assert recover_samples(tmp_path / "none.jsonl", SIZES, batch=2) == {"easy": [], "hard": []}


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_torn_line_and_its_batch_are_cut_away(path: Path, left: int) -> None:
    whole = path.read_bytes()
    lines = [line + b"\n" for line in whole.split(b"\n")[:-1]]
    # The second line of the last batch, cut after `left` bytes.
    path.write_bytes(b"".join(lines[:6]) + lines[6][:left])
    found = recover_samples(path, SIZES, batch=2)
    assert (len(found["easy"]), len(found["hard"])) == (5, 0)
    assert path.read_bytes() == b"".join(lines[:5])
    append_samples(path, "hard", [problem(0), problem(1)])
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:30], *lines[2:]]))
    with pytest.raises(ValueError, match="line 2: not an evaluated problem"):
        recover_samples(path, SIZES, batch=2)


def test_another_order_or_size_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="line 1: problem 0 of hard was expected, not 0 of easy"):
        recover_samples(path, {"hard": 3, "easy": 5}, batch=2)
    with pytest.raises(ValueError, match="line 5: problem 0 of hard was expected, not 4 of easy"):
        recover_samples(path, {"easy": 4, "hard": 3}, batch=2)
    with pytest.raises(ValueError, match="line 6: no further problem was expected, not 0 of hard"):
        recover_samples(path, {"easy": 5}, batch=2)
