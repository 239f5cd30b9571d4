"""The card of a run, and pushing it: the hub is a server on this machine that keeps what it is sent."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import yaml
from huggingface_hub import metadata_load

from pipo import hub
from pipo.analysis.card.__main__ import main
from pipo.analysis.card.card import write_card
from pipo.config.command_line import composed_job
from pipo.config.near_miss import near_miss
from pipo.errors import ConfigError
from pipo.runs.push import check_push, push
from pipo.training import _push
from tests.unit.test_run_report import summary


class Hub(ThreadingHTTPServer):
    """The few addresses of the hub that a push needs; files go into the commit itself."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.fails_at = ""
        self.asked: list[str] = []


class _Answers(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._say(200, {"sha": "0" * 40, "id": "me/mine", "siblings": [], "name": "me"})

    def do_POST(self) -> None:
        hub = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.asked.append(self.path)
        if self.headers.get("Authorization") != "Bearer hf_good":
            self._say(401, {"error": "Invalid credentials"})
        elif hub.fails_at and hub.fails_at in self.path:
            self._say(403, {"error": "no"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            known = name in hub.repositories
            hub.repositories.setdefault(name, asked)
            url = f"http://127.0.0.1:{hub.server_port}/{name}"
            self._say(409 if known else 200, {"url": url, "id": name, "name": name})
        elif "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            self._say(200, {"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"http://127.0.0.1:{hub.server_port}/me/mine/commit/1"
            self._say(200, {"commitUrl": url, "commitOid": "1" * 40, "success": True})
        else:
            self._say(200, {"errors": [], "warnings": []})

    def _say(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as a start without network
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        hub.reachable.cache_clear()
        yield running
        running.shutdown()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with a model of a few bytes, on a base that has a card."""
    base, folder = tmp_path / "base", tmp_path / "run"
    for model in (base, folder / "model"):
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: tiny-1\nbase_model: them/base\n---\ntext\n"
    )
    (folder / "model/model.safetensors").write_bytes(bytes(range(256)))
    (folder / "curves.png").write_bytes(b"png")
    config = {
        "seed": 3,
        "iterations": 12,
        "algo": {"name": "grpo", "group_size": 8, "prompts": 16},
        "pipo": {"name": "default", "feedback": "progress", "lambda": 0.1, "window": "${later}"},
        "later": 8,
        "recipe": {"responses": 128, "mini_batch": 64, "learning_rate": 5e-5},
        "task": {"name": "gsm8k", "max_response_tokens": 256},
        "model": {"name": "base", "path": str(base), "lora": {"rank": 16}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["python", "train.py", "task=gsm8k", f"output_dir={folder}", "iterations=6"]
    start = {
        "command": words,
        "git": None,
        "python": "3.11.7",
        "versions": {"torch": "2.13.0", "pipo": "0.1.0"},
    }
    (folder / "run.jsonl").write_text(2 * (json.dumps(start) + "\n"))
    done = {"iterations": 12, "seconds": 75.0, "before": summary(0.25), "after": summary(0.5)}
    (folder / "summary.json").write_text(json.dumps(done))
    return folder


def test_the_card_says_what_the_model_is_and_how_it_came_about(run: Path) -> None:
    write_card(run)
    card = run / "model/README.md"
    assert metadata_load(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "them/base",
        "license": "other",
        "license_name": "tiny-1",
        "tags": ["reinforcement-learning", "pipo", "grpo", "gsm8k"],
    }
    text = card.read_text()
    for said in (
        "# GRPO with PIPO on gsm8k\n\nHeld-out accuracy rose from 25.0 % to 50.0 % in 12 iterations and ",
        "| base model | base |",
        "| weights trained | LoRA of rank 16, merged |",
        "| metric | before training | after | difference |\n|---|---|---|---|\n"
        "| pass@1 (%) | 25.0 (23.0 to 27.0) | 50.0 (48.0 to 52.0) | +25.0 |\n",
        "  window: 8\n",  # with references resolved
        "task=gsm8k iterations=12\n```",  # resumed to 12; the folder is nobody's business
        "With pipo 0.1.0, torch 2.13.0. The run was resumed",
        "tiny-1, as the base model, base.",
        "(curves.png)",
    ):
        assert said in text
    assert (run / "model/curves.png").read_bytes() == b"png"


def test_the_card_says_when_the_loop_has_not_acted(run: Path) -> None:
    rows = [{"iteration": i, "pipo/applied": 0.0} for i in range(12)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_card(run)
    said = "| PIPO | default, which never made a retrospective update |"
    assert said in (run / "model/README.md").read_text()


def test_the_card_of_an_unfinished_run_has_no_results_after_it(run: Path) -> None:
    (run / "summary.json").unlink()
    write_card(run)
    text = (run / "model/README.md").read_text()
    assert "**Not finished.** 0 of 12 iterations are made." in text
    assert "| metric |" not in text


def test_a_run_without_a_model_gets_no_card(run: Path) -> None:
    (run / "model/config.json").unlink()
    write_card(run)
    assert not (run / "model/README.md").exists()


def test_a_run_is_pushed_with_its_card(run: Path, server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    write_card(run)
    main([str(run), "me/mine"])
    assert re.fullmatch(r"http.*/me/mine\n", capsys.readouterr().out)
    asked = server.repositories["me/mine"]
    assert asked.get("visibility") == "private" or asked.get("private") is True
    sent = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    assert server.files == sent
    assert set(sent) == {"config.json", "model.safetensors", "README.md", "curves.png"}
    assert b'from_pretrained("me/mine")' in sent["README.md"]
    # Once more, it exists; an edited card is the user's.
    with pytest.raises(SystemExit, match="2"):
        main([str(run), "me/mine"])
    assert capsys.readouterr().err == "error: me/mine: exists already; --update replaces what is in it\n"
    (run / "model/README.md").write_text("mine")
    main([str(run), "me/mine", "--update"])
    assert server.files["README.md"] == b"mine"


def test_what_is_in_the_way_is_one_line(
    run: Path, server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.fails_at = "/commit/"
    with pytest.raises(
        ConfigError, match=r"may not write there.*; the repository is made, so go on with --update"
    ):
        push(run / "model", "me/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(ConfigError, match="me/mine: the token is not accepted"):
        push(run / "model", "me/mine")
    with pytest.raises(ConfigError, match="no name of a repository, as org/name"):
        check_push("a/b/c")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://nowhere.invalid")
    with pytest.raises(ConfigError, match=r"me/mine: http://nowhere\.invalid cannot be reached"):
        push(run / "model", "me/mine")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    with pytest.raises(ConfigError, match="no token of the hub; log in with hf auth login, or set HF_TOKEN"):
        check_push("me/mine")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        check_push("me/mine")


@pytest.mark.parametrize(
    ("where", "said"),
    [("", "has no model yet"), ("/model", "is inside of a run's folder"), ("x", "no such folder")],
)
def test_only_a_run_with_a_model_is_pushed(
    run: Path, capsys: pytest.CaptureFixture[str], where: str, said: str
) -> None:
    (run / "model/config.json").unlink()
    with pytest.raises(SystemExit, match="2"):
        main([f"{run}{where}", "me/mine"])
    assert said in capsys.readouterr().err


def test_a_push_that_fails_after_training_costs_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _push(run, "me/mine")
    assert caplog.messages == [
        "not pushed: me/mine: HF_HUB_OFFLINE is set, so nothing can be pushed; unset it. The run is whole; "
        f"to push it: python -m pipo push {run} me/mine"
    ]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "push_to_hub=true",
            "push_to_hub: the name of a repository is needed, as push_to_hub=org/name, got True",
        ),
        ("push_to_hub=me/mine", "push_to_hub=me/mine: HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_training(
    monkeypatch: pytest.MonkeyPatch, typed: str, said: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=re.escape(said)):
        composed_job([typed], "train")
    assert near_miss("hub_model_id", {}) == "push_to_hub=org/name"
