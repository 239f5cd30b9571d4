"""The viewer of samples: what it reads while a file grows, what it shows and prints, its keys."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from pipo.analysis.samples.__main__ import main
from pipo.analysis.samples.app import SamplesApp
from pipo.analysis.samples.changes import earlier, marked, others
from pipo.analysis.samples.filters import Filters, Numbers
from pipo.analysis.samples.listing import Listing
from pipo.analysis.samples.shown import visible
from pipo.analysis.samples.sources import Source, Turn, open_sources
from pipo.errors import ConfigError


def trained(iteration: int, uid: str, response: str, reward: float, **more: Any) -> dict[str, Any]:
    """A row as a training run writes it."""
    return {
        "iteration": iteration,
        "uid": uid,
        "level": "2",
        "prompt": f"prompt of {uid}",
        "response": response,
        "reference": "4",
        "answer": "4" if reward else None,
        "reward": reward,
        "advantage": reward - 0.5,
        "tokens": 3,
        "finished": True,
        **more,
    }


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_all(*folders: Path) -> list[Source]:
    sources = open_sources(folders)
    for source in sources:
        while source.grow(100):
            pass
    return sources


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder: two problems in iteration 0, one of them again in 10, and two held-out ones."""
    folder = tmp_path / "run"
    (folder / "held_out").mkdir(parents=True)
    write(
        folder / "samples.jsonl",
        trained(0, "t/1", "1+1 is 3", 0.0),
        trained(0, "t/1", "[red]two[/red] \x1b[2J 2", 1.0),
        trained(0, "t/2", "no idea", 0.0, finished=False),
        trained(10, "t/1", "1+1 is 2", 1.0, rewards={"exact": 1.0, "short": None}),
    )
    for name, iterations, response, score in (("before", 0, "0", 0.0), ("after", 20, "9", 1.0)):
        one = {"index": 0, "uid": "h/1", "level": "", "prompt": "3*3=", "reference": "9"}
        one |= {"answer": response, "response": response, "score": score}
        record = {"iterations": iterations, "responses": [one]}
        (folder / f"held_out/{name}.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("typed", "inside", "outside"),
    [
        ("1", [1], [0, 0.999]),
        ("<1", [0.5, -2], [1]),
        (">=0.5", [0.5, 3], [0.49]),
        ("!=0", [-1, 1], [0]),
        ("10..40", [10, 40], [9, 41]),
        ("10..", [10, 1e6], [9]),
        ("..-0.5", [-0.5, -1], [0]),
    ],
)
def test_numbers_are_asked_for_as_one_writes_them(typed: str, inside: list, outside: list) -> None:
    numbers = Numbers(typed)
    assert [numbers.has(value) for value in [*inside, *outside]] == [True] * len(inside) + [False] * len(
        outside
    )


@pytest.mark.parametrize("typed", ["x", "..", "1..2..3", "<", "1 2"])
def test_what_is_no_number_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError, match="a number is needed"):
        Numbers(typed)


def test_nothing_that_a_terminal_obeys_is_left_in_a_text() -> None:
    assert visible("a\x1b[31mb\rc\x07\x9b\u202ed\ud800\n\te") == "a␛[31mb␍c␇\\x9b\\u202ed\\ud800\n    e"
    assert visible("数学 ∑ 🙂 [bold]") == "数学 ∑ 🙂 [bold]"


def test_changes_are_marked_word_by_word() -> None:
    assert marked("so 1+1 is 3", "so 1+1 is 2!") == "so 1+1 is [-3-]{+2!+}"
    assert marked("x" * 5, "x" * 5) == "xxxxx"
    long = "word\n" * 1200  # more than a million comparisons: by lines
    assert marked(long + "a b\n", long + "a c\n") == long + "[-a b\n-]{+a c\n+}"


def test_a_file_that_is_being_written_is_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "samples.jsonl", trained(0, "t/1", "one", 0.0))
    source, before, after = open_sources([tmp_path])
    assert [s.grow(1) for s in (source, before, after)] == [False, False, False]
    line = json.dumps(trained(1, "t/2", "zwölf\r\u2028", 1.0), ensure_ascii=False).encode() + b"\n"
    cut = line.index("ö".encode()) + 1  # in the middle of a character
    with path.open("ab") as file:
        file.write(line[:cut])
    source.grow(10)
    assert [entry.uid for entry in source.entries] == ["t/1"]
    assert source.damaged == []
    with path.open("ab") as file:
        file.write(line[cut:])
    source.grow(10)
    assert [(e.uid, e.reward, e.head) for e in source.entries[1:]] == [("t/2", 1.0, "zwölf␍\\u2028")]
    # A resumed run writes the file anew, without what is newer than its checkpoint.
    write(tmp_path / "new", trained(0, "t/3", "one", 0.0))
    os.replace(tmp_path / "new", path)
    source.grow(10)
    assert ([entry.uid for entry in source.entries], source.generation) == (["t/3"], 1)


def test_a_damaged_line_costs_itself(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.jsonl", trained(0, "t/1", "one", 0.0), {"no": "row"}, trained(0, "t/2", "b", 1.0)
    )
    (source,) = read_all(path)
    assert [entry.uid for entry in source.entries] == ["t/1", "t/2"]
    assert source.damaged == [f"{path}, line 2: no row of samples"]


def test_rows_of_an_evaluation_and_conversations_are_read(tmp_path: Path) -> None:
    turns = [
        {"role": "assistant", "content": "let me look"},
        {"role": "tool", "content": "42", "name": "calculator"},
        {"role": "assistant", "content": "it is 42"},
    ]
    sample = {
        "response": "text",
        "score": 0.5,
        "answer": "42",
        "error": "late",
        "finished": False,
        "length": 7,
    }
    row = {"part": "sums", "index": 0, "uid": "s/0", "level": "hard", "solved": "0/2", "majority": None}
    row |= {"prompt": "6*7=", "answer": "43", "samples": [sample, {**sample, "messages": turns}]}
    source = read_all(write(tmp_path / "samples.jsonl", row))[0]
    first, second = source.entries
    assert (first.part, first.iteration, first.reward, second.number) == ("sums", None, 0.5, 1)
    assert second.head == "let me look"
    response = source.response(second)
    assert response.turns == (
        Turn(role="assistant", text="let me look"),
        Turn(role="tool", text="42\nname calculator"),
        Turn(role="assistant", text="it is 42"),
    )
    assert response.facts == {
        "level": "hard",
        "tokens": "7",
        "cut at the limit": "yes",
        "answer read": "42",
        "reference": "43",
        "solved": "0/2",
        "error": "late",
    }


def test_a_response_is_compared_with_the_newest_earlier_one(run: Path) -> None:
    entries = [entry for source in read_all(run) for entry in source.entries]
    wrong, right, alone, later, before, after = entries
    assert earlier(later, entries) == wrong  # of iteration 0 the first, as it is itself of iteration 10
    assert earlier(after, entries) == before
    assert earlier(alone, entries) is None
    assert others(alone, entries) == ([], 0)
    assert others(wrong, entries) == ([right, later], 1)


def test_without_a_terminal_the_samples_are_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run), "--reward", "1", "--iteration", "..10"])
    text = capsys.readouterr().out
    assert "iteration 0 · training · t/1 · response 2 of 2\nreward 1  advantage +0.5  level 2" in text
    assert "[red]two[/red] ␛[2J 2" in text
    assert "rewards exact 1.0, short -" in text
    assert "no idea" not in text
    assert "held-out" not in text
    main([str(run), "--text", "NO IDEA"])
    text = capsys.readouterr().out
    assert "t/2 · response 1 of 1" in text
    assert "cut at the limit yes" in text
    assert "t/1" not in text
    main([str(run), "--changes"])
    text = capsys.readouterr().out
    assert "1+1 is [-3-]{+2+}" in text
    assert "[-iteration 0 · held-out-]  reward 0" in text
    assert "[-0-]{+9+}" in text


def test_a_file_of_older_days_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = trained(3, "t/1", "yes", 1.0)
    del old["advantage"]
    main([str(write(tmp_path / "s.jsonl", old))])
    assert (
        capsys.readouterr().out.splitlines()[1] == "reward 1  level 2  tokens 3  answer read 4  reference 4"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "--reward", "7"], "none of 6 responses is as asked for"),
        (["{run}", "--reward", "high"], "--reward 'high': a number is needed"),
        (["{run}/held_out"], "no samples here (samples.jsonl is missing)"),
        (["{run}/.."], "holds runs, but is none; name one of them, as "),
        (["{run}x"], "no such folder"),
    ],
)
def test_a_mistake_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([each.format(run=run) for each in arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def screen(app: SamplesApp) -> str:
    """What is seen, without colours."""
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in lines)


def drive(app: SamplesApp, act: Callable[[Pilot], Awaitable[None]], size: tuple[int, int]) -> None:
    async def go() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await act(pilot)

    asyncio.run(go())


def test_keys_go_through_responses_filters_and_changes(run: Path) -> None:
    app = SamplesApp(open_sources([run]), [str(run)], Filters(), changes=False)

    async def act(pilot: Pilot) -> None:
        assert "iteration 0 · training · t/1 · response 1 of 2" in screen(app)
        await pilot.press("down")
        assert "[red]two[/red] ␛[2J 2" in screen(app)  # neither markup nor an escape is obeyed
        await pilot.press("n", "n")
        assert "iteration 10 · training · t/1 · response 1 of 1" in screen(app)
        await pilot.press("p")
        assert "training · t/2" in screen(app)
        await pilot.press("n", "c")
        then, now = (app.query_one(f"#{name}", Static) for name in ("then", "now"))
        assert "1+1 is 3" in str(then.render())
        assert "1+1 is 2" in str(now.render())
        assert then.region.y == now.region.y  # side by side
        await pilot.press("right")
        assert "[red]two[/red]" in str(then.render())
        await pilot.press("escape", "r", *"<1", "enter")
        assert [row.reward for row in app.query_one(Listing).rows] == [0.0, 0.0, 0.0]
        assert "of 6 · reward <1" in screen(app)
        await pilot.press("slash", *"IDEA", "enter")
        assert [row.uid for row in app.query_one(Listing).rows] == ["t/2"]
        await pilot.press("i", *"5..", "enter")
        assert "no response is as asked for" in screen(app)
        await pilot.press("x", "s", "s")
        assert [row.uid for row in app.query_one(Listing).rows] == ["h/1", "h/1"]
        await pilot.press("question_mark")
        assert "next, previous problem" in screen(app)
        await pilot.press("s")  # ends the help and does nothing else
        assert len(app.query_one(Listing).rows) == 2
        await pilot.press("r", *"often", "enter")
        assert "a number is needed" in screen(app)

    drive(app, act, (120, 24))


def test_a_narrow_screen_has_all_and_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    write(path, *(trained(i, f"t/{i % 7}", f"response {i}", i % 2) for i in range(300)))
    app = SamplesApp(open_sources([tmp_path]), [str(tmp_path)], Filters(), changes=False)

    async def act(pilot: Pilot) -> None:
        listing = app.query_one(Listing)
        while app.reading:
            await pilot.pause()
        await pilot.press("end")
        assert "response 299" in screen(app)
        assert app.query_one("#detail").region.y > listing.region.y  # one above the other
        await pilot.press("c")
        assert "response 292" in screen(app)
        await pilot.press("c", "enter")
        assert not listing.display
        with path.open("a") as file:
            file.write(json.dumps(trained(300, "t/6", "response 300", 1)) + "\n")
        app._read()
        await pilot.press("escape", "down")
        assert "301/301" in screen(app)
        assert "response 300" in screen(app)

    drive(app, act, (50, 20))
