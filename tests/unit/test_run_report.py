"""The page at the end of a run: what it says, and that nothing in it can act."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from pipo.analysis.report.__main__ import main
from pipo.analysis.report.changes import find_changes
from pipo.analysis.report.content import Report, make_report
from pipo.analysis.report.events import Event
from pipo.analysis.report.page import render, write_report
from pipo.analysis.report.run_files import read_folder
from pipo.errors import ConfigError
from pipo.evaluation.held_out import (
    AFTER_FILE,
    BEFORE_FILE,
    HeldOutRecord,
    HeldOutResponse,
    held_out_record,
    read_record,
    typical_response,
    write_record,
)
from pipo.evaluation.results import ProblemResult, Sample
from pipo.records.problems import Message

HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=alert(1)>"
# A PNG of one transparent pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001"
    "e221bc330000000049454e44ae426082"
)


def summary(accuracy: float, width: float = 0.02) -> dict[str, Any]:
    """As in summary.json: pass@1 and pass@8, one level."""
    interval = [accuracy - width, accuracy + width]
    values = {
        "pass@1": accuracy,
        "pass@8": 0.75,
        "reward": accuracy,
        "response_length": 12.5,
        "truncated": 0.0,
    }
    flat = {
        k: v for name, value in values.items() for k, v in ((name, value), (f"{name}_interval", interval))
    }
    level = {"pass@1": accuracy, "pass@1_interval": interval, "problems": 4}
    counts = {"problems": 4, "samples": 16, "grader_errors": 0, "confidence": 0.95}
    return {**flat, "levels": {"2": level}, **counts}


def answer(index: int, score: float, text: str = "1+1=2") -> HeldOutResponse:
    return HeldOutResponse(
        index=index,
        uid=f"toy/{index}",
        level="2",
        prompt="1+1=",
        reference="2",
        response=text,
        answer="2" if score else None,
        score=score,
    )


def record(solved: list[int], iterations: int, accuracy: float, text: str = "1+1=2") -> HeldOutRecord:
    """Of four responses to each problem, all recorded with one."""
    return HeldOutRecord(
        iterations=iterations,
        summary=summary(accuracy),
        samples=4,
        solved=tuple(solved),
        responses=tuple(answer(i, float(c > 2), text) for i, c in enumerate(solved)),
    )


def metrics_rows(iterations: int = 12) -> list[dict[str, float]]:
    """A healthy run with PIPO: three iterations without a verdict, then progress of +1 and -2 in turn."""
    rows = []
    for i in range(iterations):
        row = {"iteration": i, "train/reward": 0.5, "rollout/truncated": 0.0, "train/response_length": 9.0}
        row |= {"rollout/zero_variance_groups": 0.25, "policy/clip_fraction": 0.0, "train/grader_errors": 0.0}
        row |= {"time/iteration": 1.0, "time/generate": 0.25, "time/update": 0.5, "pipo/applied": 0.0}
        if i > 2:
            progress = 1.0 if i % 2 else -2.0
            row |= {"pipo/progress": progress, "pipo/coefficient": progress if progress > 0 else -0.2}
            row |= {"pipo/applied": 1.0, "time/retrospective": 0.25}
        if i % 4 == 3:
            row |= {"eval/pass@1": 0.25 + i / 100, "eval/pass@1_low": 0.2, "eval/pass@1_high": 0.4}
        rows.append(row)
    return rows


def write_rows(folder: Path, rows: list[dict[str, float]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


Make = Callable[..., Path]


@pytest.fixture
def run_folder(tmp_path: Path, compose_config: Callable[..., DictConfig]) -> Make:
    """A finished run of 12 iterations as train.py leaves it, after the given overrides."""

    def make(*overrides: str, text: str = "1+1=2", command: str = "iterations=12") -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        window = [] if "pipo=none" in overrides else ["pipo.window=3"]
        cfg = compose_config("iterations=12", *window, f"output_dir={folder}", *overrides)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
        git = {"commit": "0123456789abcdef", "changed": False}
        start = {
            "command": ["python", "train.py", command],
            "git": git,
            "python": "3.11",
            "versions": {"a": "1"},
        }
        (folder / "run.jsonl").write_text(json.dumps(start) + "\n")
        write_rows(folder, metrics_rows())
        content = {"iterations": 12, "seconds": 75.0, "before": summary(0.25), "after": summary(0.5)}
        (folder / "summary.json").write_text(json.dumps(content))
        write_record(folder / BEFORE_FILE, record([0, 4, 1, 3], 0, 0.25, text))
        write_record(folder / AFTER_FILE, record([4, 0, 3, 3], 12, 0.5, text))
        return folder

    return make


def report(folder: Path) -> Report:
    return make_report(read_folder(folder))


class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# ---------------------------------------------------------------------- what is recorded


@pytest.mark.parametrize(("scores", "expected"), [((0, 1, 0, 0), 0), ((0, 1, 1, 0), 0), ((0, 1, 1, 1), 1)])
def test_the_typical_response_is_the_first_of_the_majority_and_a_tie_is_wrong(scores, expected) -> None:
    samples = tuple(
        Sample(response=f"r{i}", score=s, answer=None, error=None, finished=True, length=1)
        for i, s in enumerate(scores)
    )
    problem = ProblemResult(
        index=3, uid="u", level="", prompt="p", answer="a", samples=samples, majority=None
    )
    assert typical_response(problem).score == expected
    assert typical_response(problem).response == ("r1" if expected else "r0")


def test_records_of_several_processes_are_put_in_order_and_read_back(tmp_path: Path) -> None:
    parts = [({2: 1, 3: 0}, [answer(2, 0.0)]), ({0: 4, 1: 3}, [answer(0, 1.0), answer(1, 1.0)])]
    whole = held_out_record(parts, summary(0.5), 4, 7)
    assert whole.solved == (4, 3, 1, 0)
    assert [each.index for each in whole.responses] == [0, 1, 2]
    write_record(tmp_path / BEFORE_FILE, whole)
    assert read_record(tmp_path / BEFORE_FILE) == whole


def test_changes_are_counted_over_all_problems() -> None:
    # Right means more than 2 of 4: no, yes, no, yes before; yes, no, yes, yes after.
    how = {"confidence": 0.95, "resamples": 200, "seed": 0}
    found = find_changes(record([0, 4, 1, 3], 0, 0.5), record([4, 0, 3, 3], 9, 0.6), examples=1, **how)
    assert (found.gained, found.lost, found.right_twice, found.wrong_twice) == (2, 1, 1, 0)
    assert [change.before.index for change in found.gained_examples] == [0]  # the first of problems 0 and 2
    assert [change.before.index for change in found.lost_examples] == [1]
    assert found.difference.value == pytest.approx((4 - 4 + 2 + 0) / 4 / 4, abs=1e-15)
    # Three differences of 4, -4 and 2: of the eight sign patterns all have a sum of at least 2.
    assert found.p == 1.0


def test_records_of_different_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="not about the same problems"):
        find_changes(
            record([1, 2], 0, 0.5), record([1], 9, 0.5), examples=1, confidence=0.9, resamples=9, seed=0
        )


# ---------------------------------------------------------------------- what the page says


def test_a_finished_run_in_words_and_numbers(run_folder: Make) -> None:
    found = report(run_folder())
    assert found.title == "GRPO with PIPO on arithmetic"
    assert found.unfinished is None
    # Four problems, of which one gets worse, cannot tell 25 % from 50 %.
    assert found.outcome == (
        "Held-out accuracy went from 25.0 % to 50.0 % in 12 iterations and 1 min 15 s, which is not more "
        "than chance would do with 4 problems."
    )
    tiles = {tile.label: tile for tile in found.tiles}
    assert (tiles["pass@1"].before, tiles["pass@1"].value) == ("25.0", "50.0 %")
    assert tiles["pass@1"].note == "95% interval 48.0 to 52.0"
    assert tiles["change in pass@1"].value == "+12.5"
    rows = {row.label: row for row in found.rows}
    assert rows["pass@1 (%), level 2"].difference == "+25.0"
    assert rows["length (tokens)"].share is False
    assert found.overrides == ["iterations=12"]
    assert found.facts["commit"] == "0123456789ab"
    assert found.events == []


def test_without_records_disjoint_intervals_decide(run_folder: Make) -> None:
    folder = run_folder()
    shutil.rmtree(folder / "held_out")
    found = report(folder)
    assert found.changes is None
    assert found.outcome == "Held-out accuracy rose from 25.0 % to 50.0 % in 12 iterations and 1 min 15 s."


def test_the_loop_and_the_time_in_numbers(run_folder: Make) -> None:
    found = report(run_folder())
    loop = found.loop
    assert loop is not None
    # Iterations 3..11: odd ones have progress 1 and coefficient 1, even ones -2 and -0.2.
    assert (loop.applied, loop.improved, loop.worse, loop.level, loop.undefined) == (9, 5, 4, 0, 3)
    assert loop.mean_coefficient == pytest.approx((5 * 1 - 4 * 0.2) / 9, abs=1e-12)
    assert loop.mean_size == pytest.approx((5 * 1 + 4 * 0.2) / 9, abs=1e-12)
    assert loop.largest_progress == 2
    # 9 x 0.25 s of 12 x 1 s.
    assert loop.time_share == pytest.approx(2.25 / 12, abs=1e-12)
    assert loop.slowdown == pytest.approx(12 / 9.75, abs=1e-12)
    seconds = {phase.name: phase.seconds for phase in found.phases}
    # 12 s in iterations, of which 0.75 s lie between the phases; 75 s in all.
    assert seconds == pytest.approx(
        {"generate": 3.0, "retrospective": 2.25, "update": 6.0, "between": 0.75, "around": 63.0}, abs=1e-9
    )
    assert sum(phase.share for phase in found.phases) == pytest.approx(1, abs=1e-12)


def test_the_probe_is_reported_when_there_is_enough_to_compare(run_folder: Make) -> None:
    folder = run_folder()
    # The mean reward of the probe rises and falls with the progress: +1 in odd, -2 in even iterations.
    lines = [
        {
            "iteration": i,
            "progress": None if i < 3 else 1.0 if i % 2 else -2.0,
            "evidence": None,
            "rewards": [0.2 + 0.5 * (i % 2)] * 4,
        }
        for i in range(12)
    ]
    (folder / "probe.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loop = report(folder).loop
    assert loop is not None
    assert loop.agreement is not None
    assert (loop.agreement.sign.value, loop.agreement.iterations) == (1.0, 9)
    # 5 of 9 iterations are better and the same 5 go up: (5/9)^2 + (4/9)^2, which is not one half.
    assert loop.agreement.expected == pytest.approx(41 / 81, abs=1e-12)
    assert "51 % expected if the two were independent" in Tags(render(folder, None)).text
    (folder / "probe.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:5]))
    loop = report(folder).loop
    assert loop is not None
    assert loop.agreement is None


def test_the_time_of_the_probe_has_a_line_of_its_own(run_folder: Make) -> None:
    folder, rows = run_folder(), metrics_rows()
    write_rows(folder, [row | {"time/probe": 2.0} for row in rows])
    seconds = {phase.name: phase.seconds for phase in report(folder).phases}
    # It lies outside of the iterations: 75 s less 12 s in them and 12 x 2 s of scoring.
    assert seconds["probe"] == pytest.approx(24, abs=1e-9)
    assert seconds["around"] == pytest.approx(75 - 12 - 24, abs=1e-9)
    assert seconds["between"] == pytest.approx(0.75, abs=1e-9)


def test_a_baseline_has_no_loop(run_folder: Make) -> None:
    folder = run_folder("pipo=none")
    rows = [{k: v for k, v in row.items() if "pipo" not in k} for row in metrics_rows()]
    write_rows(folder, rows)
    found = report(folder)
    assert found.title == "GRPO on arithmetic"
    assert found.loop is None
    assert "it is a baseline" in render(folder, PIXEL)


def test_an_unfinished_run_says_so_first_and_compares_nothing(run_folder: Make) -> None:
    folder = run_folder("iterations=30")  # resumed with a larger budget, after a summary of 12
    found = report(folder)
    assert found.unfinished == "12 of 30 iterations are made."
    assert found.outcome == (
        "Before training 25.0 % of the responses to held-out problems were right; the newest point of the "
        "curve, after 12 iterations, is 36.0 %."
    )
    assert found.changes is None
    assert all(row.after is None for row in found.rows)
    text = Tags(render(folder, None)).text
    assert "This run is not finished." in text
    assert f"python train.py resume={folder}" in text


def test_a_run_without_metrics_has_a_page_too(run_folder: Make) -> None:
    folder = run_folder()
    (folder / "metrics.jsonl").unlink()
    found = report(folder)
    assert found.phases == []
    assert "nothing to draw" in render(folder, None)


# ---------------------------------------------------------------------- what was notable


SIGNAL = "[2026-01-31][p][WARNING] SIGINT: finishing this iteration, then saving and stopping\n"


def happened(folder: Path, rows: list[dict[str, float]]) -> list[Event]:
    write_rows(folder, rows)
    return list(report(folder).events)


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("rollout/truncated", 0.5, "50 % of the last responses were cut at 32 tokens"),
        ("rollout/zero_variance_groups", 1.0, "In 3 of 12 iterations no group had a signal"),
        ("rollout/zero_variance_groups", 0.75, "75 % of the last prompts taught nothing"),
        ("train/grader_errors", 0.25, "The grader failed on 25 %"),
        ("train/infrastructure_errors", 0.25, "In 3 iterations some responses could not be graded"),
        ("policy/clip_fraction", 0.5, "The trust region took the gradient of 50 %"),
        ("pipo/skipped_steps", 1.0, "3 optimiser steps of the pipo update were skipped"),
        ("policy/loss", math.nan, "Values that are not finite were logged: policy/loss"),
    ],
)
def test_what_went_wrong_in_the_last_quarter_is_said_with_advice(
    run_folder: Make, metric: str, value: float, said: str
) -> None:
    folder, rows = run_folder(), metrics_rows()
    for row in rows[-3:]:
        row[metric] = value
    events = happened(folder, rows)
    assert [event.text for event in events if said in event.text]
    assert all(event.advice for event in events)


def test_a_loop_that_never_closed_is_a_warning(run_folder: Make) -> None:
    folder, rows = run_folder(), metrics_rows()
    for row in rows:
        row["pipo/applied"] = 0.0
    (event,) = happened(folder, rows)
    assert event.warning
    assert event.text == "PIPO never made a retrospective update."
    assert "most often rewards that do not vary" in event.advice
    config = OmegaConf.load(folder / "config.yaml")
    config.pipo.window = 12
    OmegaConf.save(config, folder / "config.yaml")
    (event,) = happened(folder, rows)
    assert "A window of 12 is longer than the run" in event.advice


def test_a_run_that_was_stopped_early_has_done_nothing_wrong(run_folder: Make) -> None:
    folder, rows = run_folder("iterations=200"), metrics_rows()[:1]
    (folder / "train.log").write_text(SIGNAL)
    (event,) = happened(folder, rows)
    assert not event.warning
    assert event.text.startswith("SIGINT: finishing this iteration")
    assert "resume=" in event.advice


def test_a_signal_is_forgotten_when_the_run_went_on_and_finished(run_folder: Make) -> None:
    folder = run_folder()
    (folder / "run.jsonl").write_text((folder / "run.jsonl").read_text() * 2)
    (folder / "train.log").write_text(SIGNAL)
    assert [event.text for event in report(folder).events] == ["The run was resumed once."]


def test_a_fall_from_the_best_point_is_a_warning(run_folder: Make) -> None:
    folder, rows = run_folder(), metrics_rows()
    rows[7] |= {"eval/pass@1": 0.6, "eval/pass@1_low": 0.5}
    (event,) = happened(folder, rows)
    assert event.text == "Held-out accuracy was best after iteration 8 (60 %) and fell to 36 %."


def test_the_log_and_the_starts_are_read(run_folder: Make) -> None:
    folder = run_folder()
    (folder / "run.jsonl").write_text((folder / "run.jsonl").read_text() * 3)
    line = "[2026-01-31 12:00:00,000][pipo.x][{}] {}\n"
    (folder / "train.log").write_text(
        line.format("INFO", "iteration 3: no retrospective update, the coefficient is zero")
        + line.format("WARNING", "math train: 5 of 90 rows left out (r1: empty)") * 2
        + "Traceback (most recent call last):\n"
    )
    first, second = report(folder).events
    assert first.text == "math train: 5 of 90 rows left out (r1: empty) (said 2 times)"
    assert "mend or remove them" in first.advice
    assert second.text == "The run was resumed 2 times."
    assert not second.warning


# ---------------------------------------------------------------------- the file


def test_nothing_from_a_model_or_a_data_set_becomes_markup(run_folder: Make) -> None:
    folder = run_folder(text=HOSTILE, command=f"task.path={HOSTILE}")
    (folder / "train.log").write_text(f"[t][n][WARNING] {HOSTILE}\n")
    for name in (BEFORE_FILE, AFTER_FILE):
        content = json.loads((folder / name).read_text())
        for each in content["responses"]:
            each |= dict.fromkeys(("uid", "level", "prompt", "reference", "answer"), HOSTILE)
        (folder / name).write_text(json.dumps(content))
    found = json.loads((folder / "summary.json").read_text())
    for when in ("before", "after"):
        found[when]["levels"] = {HOSTILE: found[when]["levels"]["2"]}
    (folder / "summary.json").write_text(json.dumps(found))
    page = Tags(render(folder, PIXEL))
    assert "script" not in {tag for tag, _ in page.tags}
    assert [attributes["src"][:22] for tag, attributes in page.tags if tag == "img"] == [
        "data:image/png;base64,"
    ]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    # It is there to be read, as text: in one response, prompt, reference and so on of each of three examples.
    assert page.text.count("<script>alert('x')</script>") > 15


def test_a_conversation_is_shown_turn_by_turn(run_folder: Make) -> None:
    folder = run_folder()
    said = (Message(role="assistant", content="add(1, 1)"), Message(role="tool", content=" <b>2</b>\n"))
    kept = record([4, 0, 3, 3], 12, 0.5)
    spoken = replace(kept, responses=tuple(replace(each, messages=said) for each in kept.responses))
    write_record(folder / AFTER_FILE, spoken)
    page = render(folder, PIXEL)
    shown = '<p class="soft">tool</p>\n  <pre>&lt;b&gt;2&lt;/b&gt;</pre>'
    assert page.count(shown) == page.count("<pre>add(1, 1)</pre>") == 3  # two gained, one lost


def test_the_page_loads_nothing(run_folder: Make) -> None:
    page = Tags(render(run_folder(), PIXEL))
    links = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href")]
    assert len(links) == 1
    assert links[0] is not None
    assert links[0].startswith("data:image/png;base64,")
    policy = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_half_a_surrogate_pair_does_not_stop_the_page(run_folder: Make) -> None:
    assert r"a\ud800b" in render(run_folder(text="a\ud800b"), None)


def test_a_page_that_cannot_be_made_leaves_the_old_one_and_says_why(run_folder: Make) -> None:
    folder = run_folder()
    out = folder / "report.html"
    out.write_text("the old page")
    (folder / AFTER_FILE).write_text("{}")
    with pytest.raises(ValueError, match=r"after\.json: not a record of held-out problems"):
        write_report(folder, out, None)
    assert out.read_text() == "the old page"


def test_on_demand(run_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder()
    main([str(folder)])
    page = (folder / "report.html").read_text()
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert len(page) > 50_000  # the figure is inside
    assert not (folder / "curves.png").exists()
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    assert "config.yaml is missing" in capsys.readouterr().err


def test_what_a_crash_leaves_is_read_or_named(
    run_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder()
    start = (folder / "run.jsonl").read_text()
    (folder / "run.jsonl").write_text(start + start[:40])
    (folder / "metrics.jsonl").write_text('{"iteration": 0, "train/rew')
    out = tmp_path / "new" / "page.html"
    main([str(folder), "--out", str(out)])
    assert "nothing to draw" in out.read_text()
    assert len(report(folder).commands) == 1
    capsys.readouterr()
    for name, content in (
        ("run.jsonl", start[:40] + "\n" + start),
        ("metrics.jsonl", '{"iteration": 0\n{"iteration": 1}\n'),
        (BEFORE_FILE, (folder / BEFORE_FILE).read_text()[:100]),
        ("summary.json", '{"iterations": 12'),
        ("config.yaml", "iterations: ["),
    ):
        whole = (folder / name).read_text()
        (folder / name).write_text(content)
        with pytest.raises(SystemExit, match="2"):
            main([str(folder)])
        said = capsys.readouterr().err
        assert said.startswith(f"error: {folder / name}")
        assert said.count("\n") == 1
        (folder / name).write_text(whole)


def test_a_page_goes_where_a_file_can_be(
    run_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder()
    (tmp_path / "file").touch()
    for out, said in ((tmp_path, "is a folder; name a file"), (tmp_path / "file" / "x", "cannot be written")):
        with pytest.raises(SystemExit, match="2"):
            main([str(folder), "--out", str(out)])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "gone")])
    assert not (tmp_path / "gone").exists()


def test_a_folder_of_an_evaluation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("benchmark: {}\n")
    with pytest.raises(ConfigError, match="not a training run"):
        read_folder(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser is installed")
def test_no_page_is_wider_than_a_phone(run_folder: Make, tmp_path: Path) -> None:
    folder = run_folder(text="x" * 3000)
    main([str(folder)])
    page = (folder / "report.html").read_text().replace("default-src 'none';", "")
    script = "<script>document.body.dataset.over = document.documentElement.scrollWidth - innerWidth</script>"
    copy = tmp_path / "page.html"
    copy.write_text(page.replace("</body>", f"{script}</body>"))
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--hide-scrollbars",
        "--dump-dom",
        f"file://{copy}",
    ]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 'data-over="0"' in seen
