"""LiveCodeBench: the window of dates, the tests of both kinds, and packed tests that nobody may trust."""

from __future__ import annotations

import base64
import json
import pickle
import zlib

import pytest

from pipo.errors import TaskError
from pipo.graders.code_tests import CallTests, StdinTests
from pipo.tasks import livecodebench
from pipo.tasks.livecodebench import unpacked
from pipo.tasks.rows import UnusableRow
from tests.code_rows import DATA, make_task

SMALL = DATA / "livecodebench_small.jsonl"


def test_rows_become_problems() -> None:
    examples = make_task("livecodebench", SMALL).examples("test")
    assert [e.uid for e in examples] == [
        "livecodebench/atcoder/own_1",
        "livecodebench/atcoder/own_2",
        "livecodebench/leetcode/own_3",
    ]
    assert [e.level for e in examples] == ["easy", "hard", "medium"]
    assert [e.tests for e in examples] == [
        StdinTests(inputs=("1\n", "4\n", "-1\n"), outputs=("2\n", "5\n", "0\n")),
        StdinTests(inputs=("1", "2"), outputs=("1", "4")),
        CallTests(
            function="join",
            arguments=((["a", "b"], "-"), ([], "+")),
            expected=("a-b", ""),
            maybe_wrapped=False,
        ),
    ]
    assert examples[2].starter_code.endswith("mark: str) -> str:")


def test_rows_that_cannot_be_used_are_named() -> None:
    dropped = make_task("livecodebench", SMALL).dropped("test")
    assert [d.place.rpartition(" ")[2] for d in dropped] == [str(i) for i in range(4, 18)]
    private = "field 'private_test_cases'"
    for row, beginning in zip(
        dropped,
        [
            "contest_date 2025-01-03 is before 2025-01-04",
            "testtype must be stdin or functional in all, got ['functional', 'stdin']",
            "functional tests need func_name in field 'metadata'",
            f"{private} is neither JSON nor base64 of compressed data",
            f"{private} is neither JSON nor base64 of compressed data",
            f"{private} is the pickle of more than a text (",
            f"{private} is the pickle of more than a text (",
            f"{private} is not a pickle (",
            f"{private} has no tests",
            "field 'public_test_cases' must be a JSON list of tests with the texts",
            f"{private} must be a text that is not blank, got None",
            "input of a test is not JSON: '{'",
            "field 'contest_date' is no date: 'spring'",
            "no field 'private_test_cases'",
        ],
        strict=True,
    ):
        assert row.reason.startswith(beginning)


def test_window() -> None:
    assert len(make_task("livecodebench", SMALL, since=None).examples("test")) == 4
    assert len(make_task("livecodebench", SMALL, since="2025-02-01").examples("test")) == 2
    with pytest.raises(TaskError, match=r"none of the 17 rows can be used; .*is before 2030-01-01"):
        make_task("livecodebench", SMALL, since="2030-01-01").examples("test")
    with pytest.raises(TaskError, match="since must be a day such as 2025-01-04, got 'v6'"):
        make_task("livecodebench", SMALL, since="v6")


def pack(pickled: bytes) -> str:
    return base64.b64encode(zlib.compress(pickled)).decode()


class Writes:
    """Unpickling it would write a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_packed_text_of_every_protocol(protocol: int) -> None:
    for text in ("[]", "ä\n" * 200, json.dumps(["x" * 70_000])):
        assert unpacked("row", pack(pickle.dumps(text, protocol=protocol))) == text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_unpickled(protocol: int, tmp_path) -> None:
    target = tmp_path / "written"
    for value in (Writes(str(target)), [Writes(str(target))], "text".encode, 1, None, ["text"], ("a", "b")):
        with pytest.raises(UnusableRow, match="is the pickle of more than a text"):
            unpacked("row", pack(pickle.dumps(value, protocol=protocol)))
    assert not target.exists()


def test_damaged_and_swollen_data(monkeypatch: pytest.MonkeyPatch) -> None:
    good = pickle.dumps("[]")
    for pickled, message in [
        (b"", "is not a pickle"),
        (good[:-1], "is not a pickle"),
        (pickle.dumps("a")[:-1] + pickle.dumps("b"), "must be the pickle of one text, got 2"),
    ]:
        with pytest.raises(UnusableRow, match=message):
            unpacked("row", pack(pickled))
    with pytest.raises(UnusableRow, match="is cut"):
        unpacked("row", base64.b64encode(zlib.compress(b"a" * 1000)[:-8]).decode())
    monkeypatch.setattr(livecodebench, "MAX_TESTS_BYTES", 1 << 20)
    assert unpacked("row", pack(pickle.dumps("a" * 1_000_000))) == "a" * 1_000_000
    with pytest.raises(UnusableRow, match="more than 1 MiB uncompressed"):
        unpacked("row", pack(b"a" * 50_000_000))
