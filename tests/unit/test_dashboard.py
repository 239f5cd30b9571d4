"""The saved W&B workspace, without a server: what would be sent, and that it draws what a run logs."""

from __future__ import annotations

import json
import re
import socket

import pytest

from pipo.runs import wandb_workspace as dashboard
from pipo.runs.wandb_logger import SUMMARIES
from tests.conftest import ROOT


@pytest.fixture
def documented() -> set[str]:
    """Every metric of a run; test_command_line checks that this page and the logged rows are the same."""
    page = (ROOT / "docs/metrics.md").read_text()
    table = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    return {name for cell in table for name in re.findall(r"`([^`]+)`", cell)}


@pytest.fixture
def sections(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    spec = dashboard.specification(dashboard.workspace("me", "pipo"))
    assert spec["section"]["settings"]["xAxis"] == "iteration"
    assert spec["section"]["settings"]["smoothingType"] == "none"
    # Panels that W&B makes by itself would come between ours.
    assert spec["section"]["settings"]["shouldAutoGeneratePanels"] is False
    return spec["section"]["panelBankConfig"]["sections"]


def lines(sections):
    return [panel for section in sections[:-1] for panel in section["panels"]]


def test_the_sections_come_in_order_with_pipo_first(sections):
    names = [section["name"] for section in sections]
    assert names == [
        *("PIPO", "Accuracy", "Reward", "Lengths", "Turns", "Optimisation", "Health", "Time", "Samples")
    ]
    first = [metric for panel in sections[0]["panels"] for metric in panel["config"]["metrics"]]
    wanted = ["pipo/progress", "pipo/coefficient", "pipo/applied", "policy/grad_norm", "pipo/grad_norm"]
    assert first[:6] == [*wanted, "pipo/sign_agreement"]


def test_every_panel_draws_what_a_run_logs(sections, documented):
    drawn = {metric for panel in lines(sections) for metric in panel["config"]["metrics"]}
    assert drawn - documented == set()
    assert set(SUMMARIES) - documented == set()
    # By level and in details the automatic workspace shows more; of the method itself nothing is left out.
    assert {name for name in documented if name.startswith(("pipo/", "probe/"))} - drawn == {
        "pipo/entropy",
        "pipo/trained_rows",
    }


def test_every_line_is_raw_and_over_the_iteration(sections):
    for panel in lines(sections):
        config = panel["config"]
        assert panel["viewType"] == "Run History Line Plot"
        assert (config["xAxis"], config["smoothingType"], config["smoothingWeight"]) == (
            "iteration",
            "none",
            0,
        )


def test_the_samples_are_the_table_that_a_run_logs(sections):
    assert '"samples"' in json.dumps(sections[-1])


def test_the_command_writes_what_would_be_sent(tmp_path, capsys):
    path = tmp_path / "workspace.json"
    dashboard.main(["me/pipo", "--spec", str(path)])
    assert json.loads(path.read_text())["section"]["panelBankConfig"]["sections"][0]["name"] == "PIPO"
    dashboard.main(["me/pipo", "--spec", str(tmp_path / "new" / "x.json")])
    assert (tmp_path / "new" / "x.json").is_file()
    with pytest.raises(SystemExit, match="2"):
        dashboard.main(["me/pipo", "--spec", str(tmp_path)])
    assert "is a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        dashboard.main(["me"])
    assert "ENTITY/PROJECT" in capsys.readouterr().err
