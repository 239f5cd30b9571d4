"""What a run shows: a live bar of one line at every width, plain lines elsewhere, warnings above the bar."""

from __future__ import annotations

import logging
import re
import sys
from io import StringIO
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
from rich.console import Console

from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.callbacks.progress_bar import RunProgress
from pipo.errors import RunFailed
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.summary_tables import before_after_table, benchmark_table
from pipo.modules.hooks import RolloutCallback
from pipo.runs.terminal import TerminalHandler, warnings_on_terminal
from tests.toy import fit, module, pipo
from tests.unit.test_report import summary

# Colours and styles, and movements of the cursor.
STYLE, ESCAPE, UP = re.compile(r"\x1b\[[\d;]*m"), re.compile(r"\x1b\[[\d;?]*[A-Za-z]"), "\x1b[1A"


class Screen(StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


class Extra(RolloutCallback):
    """Adds a held-out accuracy to every row, and warns in the third iteration."""

    def __init__(self, message: str | None = None) -> None:
        self.message = message

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pl_module.row["eval/pass@1"] = 0.5
        if batch_idx == 2 and self.message is not None:
            logging.getLogger("pipo.test").warning(self.message)


def shown(monkeypatch: pytest.MonkeyPatch, message: str | None = None, **console: Any) -> str:
    """Everything that a run of four iterations writes to a console of this kind."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = RunProgress()
    options = {"force_terminal": True, "color_system": None, "legacy_windows": False, "_environ": {}}
    progress.console = Console(file=screen, **{**options, **console})
    fit(module(), [pipo(), Extra(message), progress], iterations=4)
    return screen.getvalue()


def painted(output: str) -> list[str]:
    """Each line as it was drawn, without control codes."""
    return [
        ESCAPE.sub("", line).strip() for line in re.split(r"[\r\n]", output) if ESCAPE.sub("", line).strip()
    ]


@pytest.mark.parametrize(("width", "speed"), [(80, False), (200, True)])
def test_the_bar_keeps_to_one_line(monkeypatch: pytest.MonkeyPatch, width: int, speed: bool) -> None:
    output = shown(monkeypatch, width=width)
    assert UP not in output  # a bar of several lines would be redrawn from its first
    lines = painted(output)
    assert max(map(len, lines)) <= width
    last = lines[-1]
    assert last.startswith("4/4 ━")
    for name in ("reward", "held-out", "xi", "coef"):
        assert re.search(rf" {name} +[-+]?\d\.\d\d", last)
    # 3 + 6 + 7 characters and 3 gaps leave 61; the speed would end at the 67th.
    assert ("tok/s" in last) == speed


def test_a_very_narrow_terminal_gets_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    last = painted(shown(monkeypatch, width=40))[-1]
    assert len(last) <= 40
    assert "reward" in last
    assert not {"held-out", "xi", "coef", "tok/s", "…"} & set(last.split())


@pytest.mark.parametrize("console", [{"force_terminal": False}, {"_environ": {"TERM": "dumb"}}])
def test_plain_lines_where_nothing_can_be_redrawn(monkeypatch: pytest.MonkeyPatch, console: dict) -> None:
    output = shown(monkeypatch, width=80, **console)
    assert "\x1b" not in output
    assert "\r" not in output
    lines = output.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"iteration {i}/4" for i in (1, 2, 3, 4)]
    assert all("tok/s" in line and "s left" in line for line in lines)


def test_colour_only_repeats_what_the_characters_say(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = shown(monkeypatch, width=80, color_system="truecolor")
    assert STYLE.search(coloured)
    plain = shown(monkeypatch, width=80, no_color=True)
    # Without colour the bar is as long as the share done; the first and the last are always drawn.
    lines = painted(plain)
    assert lines[0].startswith("0/4")
    assert "━" not in lines[0]
    assert lines[-1].startswith("4/4 ━━━━━━ reward")


def test_a_warning_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, root = TerminalHandler(), logging.getLogger("pipo.test")
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    root.addHandler(handler)
    try:
        lines = painted(shown(monkeypatch, "one thing is odd", width=80))
    finally:
        root.removeHandler(handler)
    assert lines.count("WARNING: one thing is odd") == 1
    assert all(line == "WARNING: one thing is odd" for line in lines if "odd" in line)


def rendered(table: Any, width: int, **options: Any) -> list[str]:
    console = Console(width=width, file=StringIO(), _environ={}, **options)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def content() -> dict[str, Any]:
    average = {"pass@1": 0.4, "pass@1_interval": [0.3, 0.5], "pass@8": 0.9, "columns": {}}
    part = {"left_out": {"count": 3}}
    return {
        "results": {"arithmetic": summary(0.25)},
        "metadata": {"parts": {"arithmetic": part}},
        "average": average,
        "not_covered": [],
    }


@pytest.mark.parametrize(
    "make",
    [lambda: before_after_table(summary(0.25), summary(0.5)), lambda: benchmark_table("toy", content())],
)
def test_tables_are_the_same_at_every_width_and_in_colour(make: Any) -> None:
    narrow = rendered(make(), 80)
    assert max(map(len, narrow)) <= 80
    assert rendered(make(), 200) == narrow
    coloured = rendered(make(), 80, force_terminal=True, color_system="truecolor")
    assert [STYLE.sub("", line).rstrip() for line in coloured] == narrow
    row = next(line for line in narrow if line.split()[:1] in (["pass@1"], ["arithmetic"]))
    assert "25.0 [23.0, 27.0]" in row  # in one piece


def test_no_difference_has_no_minus() -> None:
    rows = rendered(before_after_table(summary(0.25), summary(0.25 - 1e-9)), 80)
    assert next(row for row in rows if "reward" in row).endswith("+0.000")


def test_a_script_sees_warnings_unless_it_has_set_up_logging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    with warnings_on_terminal():
        logging.getLogger("pipo.x").warning("odd")
        logging.getLogger("pipo.x").info("plain")
    assert capsys.readouterr().err == "WARNING: odd\n"
    assert root.handlers == []
    own = logging.NullHandler()
    monkeypatch.setattr(root, "handlers", [own])
    with warnings_on_terminal():
        logging.getLogger("pipo.x").warning("odd")
        assert root.handlers == [own]
    assert capsys.readouterr().err == ""


def test_an_error_in_an_evaluation_begins_a_line(tmp_path, capsys):
    def fail(*arguments: Any) -> None:
        raise RunFailed("no room")

    evaluation = HeldOutEvaluation(
        problems=SimpleNamespace(examples=[1, 2], evaluate=fail),  # type: ignore[arg-type]
        plan=EvaluationPlan(
            samples=4, ks=(1,), majority=False, confidence=0.95, resamples=10, seed=1, prompts_per_batch=2
        ),
        every=1,
        curve_samples=1,
        folder=str(tmp_path),
        answers=0,
        interrupted=lambda: False,
    )
    with pytest.raises(RunFailed):
        evaluation._measure(None, "before", 0)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "before training: 2 held-out problems, 8 responses ... \n"
