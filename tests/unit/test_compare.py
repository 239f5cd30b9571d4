"""Two result files: differences by hand, what is refused, and what is said in words."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipo.errors import ConfigError
from pipo.evaluation.compare import Comparison, compare
from pipo.evaluation.comparison_table import comparison_table, comparison_text, print_comparison
from pipo.evaluation.results_file import read_results

SAMPLING = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "max_response_tokens": 64,
    "stop_token_ids": [1],
}


def part(problems: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "task": "sums",
        "version": "1",
        "template": "sums/1",
        "sampling": SAMPLING,
        "samples": 4,
        "problems": problems,
        "problems_hash": "p",
        "grading_hash": "g",
        "prompts_hash": "q",
    }
    return {**fields, **changes}


def write(
    folder: Path,
    solved: dict[str, list[int]],
    shares: dict[str, dict[str, float]] | None = None,
    **changes: Any,
) -> Path:
    """A result file with this many of 4 responses right per problem."""
    shares = shares or {name: {name: 1.0} for name in solved}
    content = {
        "solved": solved,
        "average": {"columns": {name: {"shares": of} for name, of in shares.items()}},
        "metadata": {
            "model": {"name": folder.name},
            "parts": {name: part(len(counts), **changes) for name, counts in solved.items()},
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def compared(first: Path, second: Path) -> Comparison:
    return compare(read_results(first), read_results(second))


def test_a_part_by_hand(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x": [0, 1, 2, 3, 4, 0]})
    b = write(tmp_path / "b", {"x": [2, 2, 1, 3, 4, 4]})
    comparison = compared(a, b)
    found = comparison.parts["x"]
    # In quarters: +2 +1 -1 0 0 +4, together 6 of 24.
    assert (found.first, found.second) == pytest.approx((10 / 24, 16 / 24))
    assert found.difference.value == pytest.approx(6 / 24)
    assert (found.problems, found.wins, found.ties, found.losses) == (6, 3, 2, 1)
    sums = [abs(sum(s)) for s in itertools.product((2, -2), (1, -1), (1, -1), (4, -4))]
    assert found.p == sum(total >= 6 for total in sums) / 16 == 6 / 16
    assert found.adjusted == found.p
    assert not found.significant
    # The interval is paired: resampled differences, which are larger than -1/4 on average.
    assert -1 / 4 < found.difference.low < 6 / 24 < found.difference.high < 1
    assert comparison.average is None  # one part is its own average
    assert comparison.notes == []


def test_swapping_the_two_turns_everything_round(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x": [0, 1, 2, 3, 4, 0], "y": [1, 1]})
    b = write(tmp_path / "b", {"x": [2, 2, 1, 3, 4, 4], "y": [0, 3]})
    forth, back = compared(a, b), compared(b, a)
    for one, other in ((forth.parts["x"], back.parts["x"]), (forth.average, back.average)):
        assert one is not None
        assert other is not None
        assert one.difference.value == pytest.approx(-other.difference.value)
        assert one.difference.low == pytest.approx(-other.difference.high)
        assert (one.wins, one.losses, one.p) == (other.losses, other.wins, other.p)


def test_the_average_weighs_columns_and_not_problems(tmp_path: Path) -> None:
    shares = {"X": {"x": 1.0}, "YZ": {"y": 0.75, "z": 0.25}}
    a = write(tmp_path / "a", {"x": [0, 0, 0, 0], "y": [4, 4], "z": [0]}, shares)
    b = write(tmp_path / "b", {"x": [4, 0, 0, 0], "y": [4, 0], "z": [4]}, shares)
    average = compared(a, b).average
    assert average is not None
    # x +1/4 (half of the average), y -1/2 (3/8), z +1 (1/8).
    assert average.difference.value == pytest.approx(0.25 / 2 - 0.5 * 3 / 8 + 1 / 8)
    assert average.first == pytest.approx(0.75 / 2)
    assert (average.problems, average.wins, average.ties, average.losses) == (7, 2, 4, 1)
    # The three problems that differ contribute 2/16, -3/16 and 2/16; of all signs only + - + (and - + -)
    # stays below 1/16, nothing does: |sum| is 1, 3 or 7 sixteenths, so 1/16 is reached by all.
    assert average.p == 1.0


def test_several_parts_are_adjusted_together(tmp_path: Path) -> None:
    # Eight problems won: p = 2/256, times two; seven ties and a win: p = 1.
    a = write(tmp_path / "a", {"x": [0] * 8, "y": [0] * 8})
    b = write(tmp_path / "b", {"x": [1] * 8, "y": [1] + [0] * 7})
    parts = compared(a, b).parts
    assert (parts["x"].p, parts["x"].adjusted, parts["x"].significant) == (2 / 256, 4 / 256, True)
    assert (parts["y"].p, parts["y"].adjusted, parts["y"].significant) == (1.0, 1.0, False)


def test_parts_of_one_only_are_named_and_have_no_average(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x": [0, 1], "y": [1, 1]})
    b = write(tmp_path / "b", {"x": [2, 2], "z": [1]})
    comparison = compared(a, b)
    assert list(comparison.parts) == ["x"]
    assert comparison.average is None
    assert comparison.notes[0] == f"only in {a / 'results.json'}: y"
    assert comparison.notes[1] == f"only in {b / 'results.json'}: z"
    assert "no average" in comparison.notes[2]


def test_sampling_that_differs_is_said(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x": [0, 1]})
    b = write(tmp_path / "b", {"x": [4, 8]}, samples=8, sampling={**SAMPLING, "temperature": 0.6})
    comparison = compared(a, b)
    assert comparison.parts["x"].second == pytest.approx(12 / 16)
    assert comparison.notes == [
        "x: the sampling differs, so it is part of the difference: samples 4 and 8, temperature 1.0 and 0.6"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "2"}, "version of the task differ: 1 in .*a/results.json, 2 in .*b/results.json"),
        ({"template": "sums/2"}, "template differ: sums/1 in .*, sums/2 in "),
        (
            {"problems_hash": "other"},
            r"problems with their references and tests \(hash\) differ: p in .*, other in ",
        ),
        ({"grading_hash": "other"}, r"options of the grader \(hash\) differ: g in .*, other in "),
        ({"prompts_hash": "other"}, "rendered prompts"),
        ({"task": "products"}, "task differ: sums in"),
    ],
)
def test_what_was_scored_differently_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    a = write(tmp_path / "a", {"x": [0, 1]})
    b = write(tmp_path / "b", {"x": [0, 1]}, **change)
    with pytest.raises(ConfigError, match=rf"x: the two cannot be compared, their {message}"):
        compared(a, b)


def test_other_mistakes_are_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x": [0, 1]})
    with pytest.raises(ConfigError, match=r"number of problems differ: 2 in .*, 3 in .*evaluation\.problems"):
        compared(a, write(tmp_path / "b", {"x": [0, 1, 2]}))
    with pytest.raises(ConfigError, match=r"no part in common: .* has x; .* has y"):
        compared(a, write(tmp_path / "c", {"y": [0]}))
    with pytest.raises(ConfigError, match=r"nowhere: no results\.json here"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"no results\.json yet; go on with python eval\.py resume="):
        read_results(tmp_path)
    for text in ("{", "[]", "{}", '{"metadata": {"parts": {}}}'):
        (a / "results.json").write_text(text)
        with pytest.raises(ConfigError, match=r"a/results\.json: not a result of eval\.py"):
            read_results(a)
    content = json.loads((write(a, {"x": [0, 1]}) / "results.json").read_text())
    del content["metadata"]["parts"]["x"]["grading_hash"]
    (a / "results.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="x has no grading_hash; it was written by another version"):
        read_results(a)
    content = json.loads((write(a, {"x": [0, 1]}) / "results.json").read_text())
    content["solved"]["x"] = [0, 5]
    (a / "results.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="solved must lie between 0 and samples=4"):
        read_results(a)
    content["solved"]["x"] = [0, 1, 1]
    (a / "results.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="x does not hold as many results as problems"):
        read_results(a)
    with pytest.raises(ConfigError, match="compare takes two evaluations"):
        print_comparison([str(a)])


def shown(first: Path, second: Path) -> tuple[str, str]:
    """Table and words, 80 characters wide."""
    files = read_results(first), read_results(second)
    comparison = compare(*files)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(comparison_table(comparison))
    return capture.get(), comparison_text(comparison, *files)


def test_table_and_sentences(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"olympiadbench": [0] * 8, "y": [0] * 8})
    b = write(tmp_path / "b", {"olympiadbench": [1] * 8, "y": [1] + [0] * 7})
    table, words = shown(a, b)
    (row,) = [line.split() for line in table.splitlines() if "olympiadbench" in line]
    assert row == [
        "olympiadbench",
        "8",
        "0.0",
        "25.0",
        "+25.0",
        "[+25.0,",
        "+25.0]",
        "0.008",
        "0.016",
        "8/0/0",
    ]
    assert words.splitlines()[:2] == [f"A: a ({a / 'results.json'})", f"B: b ({b / 'results.json'})"]
    # Nine differences, all one way: p = 2 / 2^9.
    assert "On average over the columns B is 14.1 points above A: significant at 95% (p = 0.004, " in words
    assert "16 problems in 2 parts)" in words
    assert "With Holm's correction for 2 comparisons: B is better on olympiadbench at 95%." in words


def test_a_single_part_in_words(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", {"x": [0, 3, 2]}), write(tmp_path / "b", {"x": [1, 2, 1]})
    words = shown(a, b)[1]
    assert "On x B is 8.3 points below A: not significant at 95% (p = 1.000); 3 problems do not" in words
    assert "B do not differ at a single one of 3 problems" in shown(a, a)[1]
    c = write(tmp_path / "c", {"x": [1, 2, 2]})
    assert "On x B is level with A: not significant" in shown(a, c)[1]


def test_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a", {"x": [0, 1]}), write(tmp_path / "b", {"x": [1, 1]})
    before = sorted(tmp_path.rglob("*"))
    print_comparison([str(a), str(b / "results.json")])
    assert "12.5" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
