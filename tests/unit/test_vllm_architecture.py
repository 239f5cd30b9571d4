"""The folder that vLLM reads a model's configuration from: the same for the same model, in every run."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipo.errors import ConfigError
from pipo.rollout.vllm_architecture import architecture_folder
from tests.policies import make_policy


def test_a_folder_is_named_by_the_configuration_and_stays(tmp_path, monkeypatch):
    """Weights play no part; what is there is not written again, not even by eight processes at a time."""
    monkeypatch.setenv("PIPO_CACHE", str(tmp_path))
    policy = make_policy(seed=1)
    with ThreadPoolExecutor(8) as pool:
        (folder,) = set(pool.map(lambda _: architecture_folder(policy), range(8)))
    assert architecture_folder(make_policy(seed=2)) == folder
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    other = architecture_folder(make_policy(vocab=64))
    assert other != folder
    assert sorted(tmp_path.rglob("config.json")) == sorted([folder / "config.json", other / "config.json"])


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PIPO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"file/architectures: cannot be written .*PIPO_CACHE="):
        architecture_folder(make_policy())
